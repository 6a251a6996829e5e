"""Stages that are killed anywhere end as if they had not been."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import robbench.estimation.search
import torch
from stages import ADVERSARY, ESTIMATE, FOOLING, RECIPE, Killed, comparable, killer, source, write_images

import robbench.estimation.fixed_radii
import robbench.estimation.shrinking_ball
import robbench.stages.robustness
from robbench.errors import RobbenchError
from robbench.spec import PGD, Dataset, Model
from robbench.stages.pipeline import run_estimate, run_training


def run_killed(place, word, call, job):
    """Run a job that is killed, resume it in a new session, and return both its workplaces and the record."""
    first = place(show=killer(word, call))
    with pytest.raises(Killed):
        job(first)
    second = place(resume=True)
    return first, second, job(second)


ADAM = replace(RECIPE, optimiser="adam", learning_rate=0.005, epochs=3)
MOMENTUM = replace(RECIPE, attack=ADVERSARY, epochs=3)


@pytest.mark.parametrize("call", [2, 5, 8, 9])
@pytest.mark.parametrize("recipe", [ADAM, MOMENTUM], ids=["adam", "adversarial-sgd"])
def test_a_training_killed_anywhere_ends_as_if_it_had_not_been(place, tmp_path, recipe, call):
    """In any epoch of three, resumed from the last whole one: the same record and bit by bit the same weights."""
    dataset = Dataset(name="near", augmentation="crop-flip", mean=(0.4,), std=(0.3,))
    model = Model(architecture="own_networks:small", dataset=dataset, recipe=recipe, seed=3)

    def job(context):
        return run_training(model, context, suite="demo")

    whole = place(folder=tmp_path / "other")
    expected = job(whole)
    first, second, record = run_killed(place, "training", call, job)
    assert comparable(record) == comparable(expected)
    one, other = (context.store.weights(model.digest) for context in (whole, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert first.store.load_checkpoint(model.digest) is None


@pytest.mark.parametrize(
    ("architecture", "first", "second", "said"),
    [
        ("own_networks:small", {"code": "one"}, {"code": "other"}, 1),
        ("own_networks:small", {"code": "one"}, {"code": "one"}, 0),
        ("own_networks:small", {"code": ""}, {"code": "one"}, 0),
        ("own_networks:small", {"code": "one", "run": "the same"}, {"code": "other", "run": "the same"}, 0),
        ("wrn10_1", {"code": "one"}, {"code": "other"}, 0),
    ],
)
def test_a_stage_of_an_own_network_by_changed_code_is_taken_over_with_a_word(place, architecture, first, second, said):
    """A digest holds the SHA-256 of the network's file, not of what that file imports."""
    model = Model(architecture=architecture, dataset=Dataset(name="near"), recipe=RECIPE)
    texts = []
    expected = run_training(model, place(**first), suite="demo")
    assert run_training(model, place(resume=True, say=texts.append, **second), suite="demo") == expected
    run_estimate(model, ESTIMATE, place(say=texts.append, **second), suite="demo")  # takes the training, too
    assert sum(text.startswith("Python files have changed since") for text in texts) == 2 * said


def test_a_resumed_training_takes_up_where_it_stopped(place):
    """Killed in the third epoch, only the third is trained, and the seconds of the first two are counted on."""
    model = source(epochs=3)
    shown = []
    first = place(show=killer("training", 8))
    with pytest.raises(Killed):
        run_training(model, first, suite="demo")
    _, values = first.store.load_checkpoint(model.digest)
    second = place(resume=True, show=lambda what, done, total: shown.append(done))
    record = run_training(model, second, suite="demo")
    assert [epoch.epoch for epoch in record.training.epochs] == [1, 2, 3]
    assert min(shown) == 2.0
    history = record.training.epochs
    assert [epoch.seconds for epoch in history[:2]] == [epoch["seconds"] for epoch in values["history"]]
    assert sum(epoch.seconds for epoch in history) == pytest.approx(record.seconds.training, abs=2e-3)


def test_a_checkpoint_without_state_of_the_optimiser_is_not_gone_on_with(place):
    """Its checksum is right, but a fresh optimiser would end elsewhere: one error says what to remove, and helps."""
    model = source(epochs=3)
    first = place(show=killer("training", 8))
    with pytest.raises(Killed):
        run_training(model, first, suite="demo")
    tensors, values = first.store.load_checkpoint(model.digest)
    left = {name: tensor for name, tensor in tensors.items() if not name.startswith("optimiser/")}
    first.store.save_checkpoint(model.digest, left, values)
    with pytest.raises(
        RobbenchError, match=r"is damaged \(ValueError: optimiser: expected .*; remove its folder"
    ) as error:
        run_training(model, place(resume=True), suite="demo")
    folder = first.store.checkpoint_path(model.digest).parent
    assert f"remove its folder {folder} and run again" in str(error.value)
    shutil.rmtree(folder)
    assert len(run_training(model, place(resume=True), suite="demo").training.epochs) == 3


def test_without_resuming_a_checkpoint_is_not_used(place):
    """A new session that was not asked to resume begins at the first epoch."""
    model, shown = source(epochs=3), []
    with pytest.raises(Killed):
        run_training(model, place(show=killer("training", 8)), suite="demo")
    run_training(model, place(show=lambda what, done, total: shown.append(done)), suite="demo")
    assert min(shown) == 0.0


def test_a_checkpoint_of_other_images_is_not_used(place):
    """After a dataset was overwritten, resuming starts over: the result is that of the new images alone."""
    model, shown = source(epochs=3), []
    first = place(show=killer("training", 8))
    with pytest.raises(Killed):
        run_training(model, first, suite="demo")
    write_images(first.data, "near", seed=9)
    run_training(model, place(resume=True, show=lambda what, done, total: shown.append(done)), suite="demo")
    assert min(shown) == 0.0


TESTED = replace(ESTIMATE, final_test=tuple(PGD(epsilon=e, steps=2, random_start=False) for e in (0.02, 0.1)))


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize(("word", "call"), [("p*", 2), ("p*", 4), ("p*", 22), ("final", 2), ("final", 4)])
def test_an_estimate_killed_anywhere_ends_as_if_it_had_not_been(place, tmp_path, monkeypatch, search, word, call):
    """With a checkpoint after every batch: the same p*, robust accuracies and numbers of passes, in both searches."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 4)
    estimate = replace(TESTED, search=search)

    def job(context):
        return run_estimate(source(), estimate, context, suite="demo")

    shown = []
    expected = job(place(folder=tmp_path / "other", show=lambda what, *_: shown.append(what)))
    call = min(call, sum(what.startswith(word) for what in shown))
    first, _, record = run_killed(place, word, call, job)
    assert comparable(record) == comparable(expected)
    assert first.store.load_checkpoint(record.digest) is None


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_kept_counterexamples_survive_a_kill(place, tmp_path, monkeypatch, search):
    """They are part of the checkpoint: the resumed search has kept bit by bit what an uninterrupted one keeps."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 7)
    estimate = replace(FOOLING, search=search)

    def job(context):
        return run_estimate(source(), estimate, replace(context, keep_adversarials=True), suite="demo")

    whole = place(folder=tmp_path / "other")
    expected = job(whole)
    _, second, record = run_killed(place, "p*", 3, job)
    assert record.robustness.pstar == expected.robustness.pstar
    kept = second.store.adversarials(record.digest)
    assert len(kept) > 2
    assert torch.equal(kept, whole.store.adversarials(record.digest))


def test_a_checkpoint_without_counterexamples_is_not_enough_for_one_with(place, monkeypatch):
    """The search begins anew, and says so; with the option gone again, what the checkpoint kept is gone on with."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 7)
    said = []
    for keeps, text in (
        (False, [f"{source().id}: p* is estimated from the start, its checkpoint kept no counterexamples"]),
        (True, []),
    ):
        said.clear()
        with pytest.raises(Killed):
            run_estimate(source(), FOOLING, place(show=killer("p*", 3), keep_adversarials=keeps), suite="demo")
        context = place(resume=True, keep_adversarials=not keeps, say=said.append)
        record = run_estimate(source(), FOOLING, context, suite="demo")
        kept = context.store.adversarials(record.digest)
        assert len(kept) == sum(0 <= p < len(record.robustness.grid) for p in record.robustness.pstar) > 2
        assert said == text
        assert kept.flatten(1).amax(1).all()


def test_a_resumed_search_keeps_its_batch(place, monkeypatch):
    """Where more memory is free than before the kill, the search goes on with as many images as before: other numbers round otherwise."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 4)
    with pytest.raises(Killed):
        run_estimate(source(), ESTIMATE, place(show=killer("p*", 3)), suite="demo")
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 256)
    sizes, probe = [], robbench.estimation.search._probe

    def spy(task, state, batch, loop):
        sizes.append(len(batch))
        probe(task, state, batch, loop)

    monkeypatch.setattr(robbench.estimation.search, "_probe", spy)
    run_estimate(source(), ESTIMATE, place(resume=True), suite="demo")
    assert max(sizes) == 4


def test_a_resumed_estimate_counts_the_seconds_before_it(place, monkeypatch):
    """What the killed search had measured is in its checkpoint, and in the record of the resumed one."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 7)
    first = place(show=killer("p*", 3))
    with pytest.raises(Killed):
        run_estimate(source(), ESTIMATE, first, suite="demo")
    digest = source().estimate_digest(ESTIMATE)
    tensors, values = first.store.load_checkpoint(digest)
    assert values["seconds"]["estimation"] > 0
    first.store.save_checkpoint(
        digest, tensors, values | {"seconds": values["seconds"] | {"estimation": 1000.0}, "notes": ["memory ran out"]}
    )
    record = run_estimate(source(), ESTIMATE, place(resume=True), suite="demo")
    assert 1000 < record.seconds.estimation < 1010
    assert record.notes == ["memory ran out"]


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, values: ({name: tensor.repeat(2) for name, tensor in tensors.items()}, values),
        lambda tensors, values: (tensors | {"last": tensors["last"] + 100}, values),
        lambda tensors, values: (tensors, values | {"testing": {"fooled": [1] * 9, "start": 0}}),
    ],
    ids=["images", "grid", "attacks"],
)
def test_a_checkpoint_of_another_search_is_one_error(place, monkeypatch, change):
    """Its checksum is right, but it has brackets of other images, places beyond the grid, or results of other attacks."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 7)
    first = place(show=killer("p*", 3))
    with pytest.raises(Killed):
        run_estimate(source(), TESTED, first, suite="demo")
    digest = source().estimate_digest(TESTED)
    first.store.save_checkpoint(digest, *change(*first.store.load_checkpoint(digest)))
    with pytest.raises(RobbenchError, match=r"is damaged \(ValueError: \w+: expected .*; remove its folder"):
        run_estimate(source(), TESTED, place(resume=True), suite="demo")


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_an_estimate_killed_in_its_audit_searches_no_more(place, tmp_path, monkeypatch, search):
    """However short the search was: the audit begins again, and p*, final test and passes are those before it."""
    estimate = replace(TESTED, search=search)

    def job(context):
        return run_estimate(source(), estimate, context, suite="demo")

    def attack(*arguments, **options):
        pytest.fail("an image was attacked again")

    expected = job(place(folder=tmp_path / "other"))
    with pytest.raises(Killed):
        job(place(show=killer("audit", 1)))
    for module, name in (
        (robbench.estimation.search, "_probe"),
        (robbench.estimation.shrinking_ball, "_step"),
        (robbench.estimation.fixed_radii, "pgd"),
    ):
        monkeypatch.setattr(module, name, attack)
    assert comparable(job(place(resume=True))) == comparable(expected)
