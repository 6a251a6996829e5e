"""Which finished stages are used again, and which are made anew."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import torch
from stages import ESTIMATE, FOOLING, comparable, source, target, write_images

import robbench.stages.context
from robbench.data import load
from robbench.errors import RobbenchError
from robbench.spec import PGD, Dataset, EpsilonGrid
from robbench.stages.context import load_network
from robbench.stages.pipeline import run_estimate, run_training


def test_a_stage_under_test_runs_in_every_session_but_once_in_each(place, ran):
    """Twice in a session is once; a new session runs it again, unless resuming was asked for."""
    first = place()
    records = [run_training(source(), first, suite="demo") for _ in range(2)]
    assert ran == ["train"]
    assert records[0] == records[1]
    run_training(source(), place(), suite="demo")
    assert ran == ["train"] * 2
    run_training(source(), place(resume=True), suite="demo")
    assert ran == ["train"] * 2


def test_workers_of_one_session_share_their_stages(place, ran):
    """With the same run id, as under pytest-xdist, another context takes what the first one finished."""
    run_estimate(source(), ESTIMATE, place(run="shared"), suite="demo")
    run_estimate(source(), ESTIMATE, place(run="shared"), suite="demo")
    assert ran == ["train", "estimate"]


def test_what_another_run_finished_meanwhile_is_not_made_again(place, ran):
    """Two runs that began before either had a result: each stage runs once. A third one that begins later makes its own."""
    one, two = place(), place()
    assert run_estimate(source(), ESTIMATE, one, suite="demo") == run_estimate(source(), ESTIMATE, two, suite="demo")
    assert ran == ["train", "estimate"]
    run_training(source(), place(), suite="demo")
    assert ran == ["train", "estimate", "train"]


@pytest.mark.parametrize(("field", "other"), [("slug", "elsewhere"), ("commit", "0" * 40), ("threads", 99)])
def test_what_a_run_elsewhere_finished_meanwhile_is_made_again(place, ran, monkeypatch, field, other):
    """Another machine's, another commit's and another number of threads' result is no result of this run."""
    one, two = place(), place()
    here = robbench.stages.context.environment(one.device)
    run_training(source(), one, suite="demo")
    changed = msgspec.structs.replace(here, **{field: other})
    monkeypatch.setattr(robbench.stages.context, "environment", lambda device: changed)
    run_training(source(), two, suite="demo")
    assert ran == ["train", "train"]


def test_a_tree_that_became_dirty_meanwhile_changes_nothing(place, ran, monkeypatch):
    """Writing the first baseline makes it so."""
    one, two = place(), place()
    here = robbench.stages.context.environment(one.device)
    run_training(source(), one, suite="demo")
    changed = msgspec.structs.replace(here, dirty=not here.dirty)
    monkeypatch.setattr(robbench.stages.context, "environment", lambda device: changed)
    run_training(source(), two, suite="demo")
    assert ran == ["train"]


def test_what_only_another_stage_needs_comes_from_the_store(place, ran):
    """In a new session an estimate under test runs again, with the model that is there; a transfer with its source."""
    run_estimate(source(), ESTIMATE, place(), suite="demo")
    ran.clear()
    run_estimate(source(), ESTIMATE, place(), suite="demo")
    assert ran == ["estimate"]
    run_training(target(), place(), suite="demo")
    assert ran == ["estimate", "train"]
    run_estimate(source(), ESTIMATE, place(), suite="demo", under_test=False)
    assert ran == ["estimate", "train"]


def test_a_reused_record_carries_the_suite_and_case_that_ask_for_it(place):
    """A model shared by two suites is trained once, and each gets the record under its own name."""
    context = place()
    one = run_training(source(), context, suite="one")
    two = run_training(source(), context, suite="two")
    assert (one.suite, two.suite) == ("one", "two")
    assert comparable(one) == msgspec.structs.replace(comparable(two), suite="one")


def test_a_record_carries_the_labels_of_whoever_asks(place, ran):
    """What one study trained without a label stands in another under its own variant, the source's too."""
    near = source()
    run_training(target(1, of=near), place(), suite="one")
    near = replace(near, variant="box")
    record = run_training(replace(target(1, of=near), variant="box"), place(resume=True), suite="two")
    assert ran == ["train", "train"]
    assert (record.suite, record.model.variant, record.model.source_case) == ("two", "box", near.id)
    assert record.case.endswith("-TL1-box")


def test_another_estimate_of_a_model_is_another_stage(place, ran):
    """A finer grid is estimated anew, with the model that is there."""
    context = place(resume=True)
    run_estimate(source(), ESTIMATE, context, suite="demo")
    finer = replace(ESTIMATE, grid=EpsilonGrid(stop=0.3, step=0.01))
    record = run_estimate(source(), finer, context, suite="demo")
    assert ran == ["train", "estimate", "estimate"]
    assert len(record.robustness.grid) == 31


def test_the_final_test_runs_on_the_images_of_the_search(place):
    """Same images, same right ones; its seconds are validation, not estimation; without it nothing else differs."""
    attacks = tuple(
        PGD(epsilon=epsilon, steps=steps, random_start=False) for epsilon in (0.02, 0.1, 0.3) for steps in (1, 3)
    )
    tested = run_estimate(source(), replace(ESTIMATE, final_test=attacks), place(), suite="demo")
    plain = run_estimate(source(), ESTIMATE, place(), suite="demo")
    assert tested.digest != plain.digest
    assert msgspec.structs.replace(tested.robustness, attacks=[]) == plain.robustness
    assert plain.robustness.attacks == []
    found = [(entry.attack, entry.epsilon, entry.steps) for entry in tested.robustness.attacks]
    assert found == [("pgd" if attack.steps > 1 else "fgsm", attack.epsilon, attack.steps) for attack in attacks]
    robust = [entry.robust.correct for entry in tested.robustness.attacks]
    assert max(robust) <= tested.robustness.clean.correct
    assert robust[1::2] == sorted(robust[1::2], reverse=True)
    assert {entry.robust.total for entry in tested.robustness.attacks} == {20}
    assert tested.seconds.validation > 0
    assert plain.seconds.validation < tested.seconds.validation


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_keeping_counterexamples_changes_no_result(place, search):
    """Same digest, same record; what is kept is one image for each p*, inside its ball, that the stored model misjudges."""
    estimate = replace(FOOLING, search=search)
    context = place(keep_adversarials=True)
    record = run_estimate(source(), estimate, context, suite="demo")
    kept = context.store.adversarials(record.digest)
    other = place()
    assert comparable(run_estimate(source(), estimate, other, suite="demo")) == comparable(record)
    assert other.store.adversarials(record.digest) is None

    found = [
        (image, p) for image, p in zip(record.robustness.images, record.robustness.pstar, strict=True) if 0 <= p < 21
    ]
    assert kept.shape == (len(found), 1, 8, 8)
    assert len(found) > 2
    test = load(Dataset(name="near"), context.data).test.take(torch.tensor([image for image, _ in found]))
    distance = (kept - test.images.float() / 255).abs().flatten(1).amax(1)
    assert (distance <= torch.tensor([record.robustness.grid[p] for _, p in found]) + 1e-6).all()
    with torch.no_grad():
        assert (load_network(source(), context)(kept).argmax(1) != test.labels).all()


def test_a_finished_stage_without_counterexamples_is_not_enough_for_one_with(place, ran):
    """Under resume it is estimated again, and that is said; the other way round it is enough, and trainings always are."""
    said = []
    run_estimate(source(), FOOLING, place(), suite="demo")
    keeping = place(resume=True, keep_adversarials=True, say=said.append)
    record = run_estimate(source(), FOOLING, keeping, suite="demo")
    assert ran == ["train", "estimate", "estimate"]
    assert said == [f"{source().id}: p* is estimated again, the finished stage kept no counterexamples"]
    run_estimate(source(), FOOLING, place(resume=True, keep_adversarials=True, say=said.append), suite="demo")
    run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo")
    assert (len(ran), len(said)) == (3, 1)
    assert keeping.store.adversarials(record.digest) is not None


def test_a_run_that_drops_kept_counterexamples_says_so(place):
    """Once: after it there are none to drop."""
    said = []
    run_estimate(source(), FOOLING, place(keep_adversarials=True, say=said.append), suite="demo")
    assert said == []
    run_estimate(source(), FOOLING, place(say=said.append), suite="demo")
    run_estimate(source(), FOOLING, place(say=said.append), suite="demo")
    (line,) = said
    assert line.startswith(f"{source().id}: p* was estimated again without --robbench-keep-adversarials, ")


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(path.read_bytes()[:-9])])
@pytest.mark.parametrize("kind", ["weights", "adversarials"])
def test_damaged_tensors_of_a_finished_stage_are_named(place, ran, kind, damage):
    """Gone or cut: whoever takes the stage over looks at them, and what needs them does; a run that makes it again mends it."""
    run_estimate(source(), FOOLING, place(keep_adversarials=True), suite="demo")
    (path,) = place().store.folder.rglob(f"{kind}.safetensors")
    damage(path)
    stage = run_training if kind == "weights" else functools.partial(run_estimate, estimate=FOOLING)
    with pytest.raises(RobbenchError, match=rf"{kind}\.safetensors is damaged"):
        stage(source(), context=place(resume=True), suite="demo")
    ran.clear()
    stage(source(), context=place(keep_adversarials=True), suite="demo")
    assert ran == [{"weights": "train", "adversarials": "estimate"}[kind]]
    stage(source(), context=place(resume=True), suite="demo")


@pytest.mark.parametrize("resume", [False, True])
def test_changed_images_are_noticed(place, ran, resume):
    """A dataset file that was overwritten is not what the stored model learnt: training and estimate run again."""
    before = run_estimate(source(), ESTIMATE, place(), suite="demo")
    context = place(resume=resume)
    write_images(context.data, "near", seed=9)
    ran.clear()
    after = run_estimate(source(), ESTIMATE, context, suite="demo", under_test=False)
    assert ran == ["train", "estimate"]
    assert after.data.sha256 != before.data.sha256


def test_changed_images_of_the_source_are_noticed(place, ran):
    """A transfer whose source learnt other images is made again, source, transfer and estimate, although its own stay."""
    run_estimate(target(), ESTIMATE, place(), suite="demo")
    context = place(resume=True)
    ran.clear()
    run_estimate(target(), ESTIMATE, context, suite="demo")
    assert ran == []
    write_images(context.data, "near", seed=9)
    run_training(source(), context, suite="demo")
    run_estimate(target(), ESTIMATE, context, suite="demo")
    assert ran == ["train", "train", "estimate"]
