"""Stages end to end on tiny networks: what runs, what is reused, what goes on after an interruption, what fails early."""

from __future__ import annotations

import sys
import types
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robbench.assembly
import robbench.estimation
import robbench.pipeline
import robbench.robustness
import robbench.workplace
from robbench.data import load
from robbench.errors import RobbenchError
from robbench.models import build, weights
from robbench.pipeline import check, run_estimate, run_training
from robbench.record import WRONG, Seconds
from robbench.spec import PGD, Checkpoint, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer
from robbench.store import Store
from robbench.training import validate
from robbench.workplace import Workplace, load_network

ADVERSARY = PGD(epsilon=0.1, steps=1)
RECIPE = Recipe(optimiser="sgd", learning_rate=0.05, weight_decay=1e-4, batch_size=16, epochs=1)
ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.3, step=0.02), attack=PGD(steps=2, random_start=False), images=20, seed=1)
FOOLING = replace(ESTIMATE, grid=EpsilonGrid(stop=1.0, step=0.05))
"""Wide enough that most images have a p*."""


def small(classes, shape):
    """Two convolutions, batch norm, dropout and a linear layer: four blocks for images of any size above 4."""
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Conv2d(4, 6, 3),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, classes),
    )


def rigid(classes, shape):
    """One linear layer on the pixels: for images of one size only."""
    return nn.Sequential(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))


@pytest.fixture(autouse=True)
def own_code(monkeypatch):
    """A module of a user's with the two networks, and no dataset remembered from an earlier test."""
    module = types.ModuleType("own_networks")
    module.small, module.rigid = small, rigid
    monkeypatch.setitem(sys.modules, "own_networks", module)
    robbench.assembly._load.cache_clear()
    yield
    robbench.assembly._load.cache_clear()


def write_images(folder, name, *, classes=3, side=8, channels=None, count=60, seed=0):
    """A prepared dataset of striped noise, a stripe per class."""
    folder.mkdir(exist_ok=True)
    numbers = np.random.default_rng(seed)
    arrays = {"classes": np.array([f"c{number}" for number in range(classes)])}
    for part, size in (("train", count), ("test", count // 2)):
        labels = np.arange(size) % classes
        images = numbers.integers(0, 150, (size, side, side, channels or 1), dtype=np.uint8)
        images[np.arange(size), labels] += 100
        arrays |= {f"x_{part}": images, f"y_{part}": labels}
    np.savez(folder / f"{name}.npz", **arrays)
    robbench.assembly._load.cache_clear()


@pytest.fixture
def place(tmp_path):
    """A function that makes the workplace of a new session: two datasets on disk, and a store that all of them share."""
    write_images(tmp_path / "data", "near", classes=3, seed=1)
    write_images(tmp_path / "data", "far", classes=4, seed=2)
    sessions = iter(range(1000))

    def make(**options):
        store = Store(options.pop("folder", tmp_path / "store"), run=options.pop("run", f"run {next(sessions)}"))
        return Workplace(store=store, data=tmp_path / "data", device=torch.device("cpu"), **options)

    return make


@pytest.fixture
def ran(monkeypatch):
    """What was really run, in order: ``train`` or ``estimate``."""
    calls = []

    def spy_on(module, function, name):
        original = getattr(module, function)

        def spy(*arguments, **options):
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, function, spy)

    spy_on(robbench.pipeline, "train", "train")
    spy_on(robbench.robustness, "estimate_pstar", "estimate")
    return calls


def source(dataset="near", *, architecture="own_networks:small", **changes):
    """A model trained adversarially from scratch."""
    return Model(
        architecture=architecture,
        dataset=Dataset(name=dataset),
        recipe=replace(RECIPE, attack=ADVERSARY, **changes),
    )


def target(k=1, *, of=None, dataset="far", recipe=RECIPE, **changes):
    """A transfer of the source model to the other dataset."""
    of = of or source()
    transfer = Transfer(k=k, **changes)
    return Model(
        architecture=of.architecture, dataset=Dataset(name=dataset), recipe=recipe, transfer=transfer, source=of
    )


def comparable(record):
    """A record without what differs between equal runs: durations and the date."""
    training = record.training and msgspec.structs.replace(
        record.training,
        epochs=[msgspec.structs.replace(e, seconds=0.0, validation_seconds=0.0) for e in record.training.epochs],
    )
    return msgspec.structs.replace(record, seconds=Seconds(), created="", training=training)


# --- what a stage does ------------------------------------------------------------------------------------------------


def test_a_transfer_trains_its_source_once_and_estimates_both(place, ran):
    """Six stages of three models run three trainings and three estimates; records name model, data and source."""
    workplace = place()
    models = [target(1), source(), target(2)]
    records = [run_estimate(model, ESTIMATE, workplace, suite="demo") for model in models]
    trainings = [run_training(model, workplace, suite="demo") for model in models]
    assert sorted(ran) == ["estimate"] * 3 + ["train"] * 3
    assert ran[:3] == ["train", "train", "estimate"]

    facts = records[0].model
    assert (facts.method, facts.source, facts.source_method, facts.k, facts.blocks) == ("transfer", "near", "pgd", 1, 4)
    assert (facts.source_case, facts.trainable) == (models[1].id, 4 * 24 + 4)
    assert (records[0].suite, records[0].case, records[0].stage) == ("demo", models[0].id, "robustness")
    assert [trainings[0].data.name, trainings[1].data.name] == ["far", "near"]
    assert (trainings[0].data.train, trainings[0].data.validation, trainings[0].data.test) == (48, 12, 30)
    assert records[0].data.test == 20
    assert trainings[1].training.robust is not None
    assert trainings[0].training.robust is None
    assert records[0].digest == models[0].estimate_digest(ESTIMATE)
    assert trainings[0].digest == models[0].digest
    for record in records:
        assert len(record.robustness.pstar) == 20
        assert record.robustness.grid == list(ESTIMATE.grid.values)
        assert record.seconds.estimation > 0
        assert record.seconds.training == 0


def test_the_stored_model_is_the_one_that_was_judged(place):
    """The network read back has the recorded validation accuracy, and is right on the images that have a p*."""
    workplace, model = place(), source()
    trained = run_training(model, workplace, suite="demo")
    robustness = run_estimate(model, ESTIMATE, workplace, suite="demo").robustness
    network = load_network(model, workplace)
    data = load("near", folder=workplace.data)
    _, validation = robbench.assembly.training_parts(model.dataset, data, workplace.device)
    assert validate(network, RECIPE, validation, seed=0)[0] == trained.training.validation
    test = data.test.take(torch.tensor(robustness.images))
    right = network(test.images.float() / 255).argmax(1) == test.labels
    assert [place != WRONG for place in robustness.pstar] == right.tolist()
    assert 0 < sum(right) < 20


@pytest.mark.parametrize(("kept", "moved"), [("frozen", False), ("finetuned", True)])
def test_kept_blocks_stay_the_sources_unless_fine_tuned(place, kept, moved):
    """After retraining the last block, the first convolution is bit by bit the source's, or has moved a little."""
    workplace = place()
    model = target(1, kept=kept)
    run_training(model, workplace, suite="demo")
    before, after = (workplace.store.weights(m.digest) for m in (model.source, model))
    assert torch.equal(before["0.weight"], after["0.weight"]) != moved
    assert torch.equal(before["1.running_mean"], after["1.running_mean"]) != moved
    torch.testing.assert_close(before["0.weight"], after["0.weight"], rtol=0, atol=0.01)
    assert after["8.weight"].shape == (4, 24)


def test_frozen_blocks_drift_where_the_thesis_lets_them(place):
    """In training mode the frozen batch norm's statistics leave the source's, and its weights stay."""
    workplace, model = place(), target(1, kept_statistics="train")
    run_training(model, workplace, suite="demo")
    before, after = (workplace.store.weights(m.digest) for m in (model.source, model))
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert torch.equal(before["1.weight"], after["1.weight"])


def test_one_of_the_studys_networks_on_drawn_characters(place, ran):
    """cnn7 from ten digits to 47 characters: sizes as in the study, one training each."""
    digits, characters = (Dataset(name=name, train=90, test=12) for name in ("glyphs10", "glyphs47"))
    first = Model(architecture="cnn7", dataset=digits, recipe=replace(RECIPE, batch_size=64))
    second = replace(first, dataset=characters, source=first, transfer=Transfer(k=2))
    record = run_estimate(second, replace(ESTIMATE, images=6), place(), suite="demo")
    assert ran == ["train", "train", "estimate"]
    assert (record.model.parameters, record.model.blocks, record.model.trainable) == (319_639, 7, 40_200 + 9_447)
    assert (record.data.train, record.data.validation, record.data.test) == (72, 18, 6)


# --- reuse ------------------------------------------------------------------------------------------------------------


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
    """With the same run id, as under pytest-xdist, another workplace takes what the first one finished."""
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
    here = robbench.workplace.environment(one.device)
    run_training(source(), one, suite="demo")
    changed = msgspec.structs.replace(here, **{field: other})
    monkeypatch.setattr(robbench.workplace, "environment", lambda device: changed)
    run_training(source(), two, suite="demo")
    assert ran == ["train", "train"]


def test_a_tree_that_became_dirty_meanwhile_changes_nothing(place, ran, monkeypatch):
    """Writing the first baseline makes it so."""
    one, two = place(), place()
    here = robbench.workplace.environment(one.device)
    run_training(source(), one, suite="demo")
    changed = msgspec.structs.replace(here, dirty=not here.dirty)
    monkeypatch.setattr(robbench.workplace, "environment", lambda device: changed)
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
    workplace = place()
    one = run_training(source(), workplace, suite="one")
    two = run_training(source(), workplace, suite="two")
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
    workplace = place(resume=True)
    run_estimate(source(), ESTIMATE, workplace, suite="demo")
    finer = replace(ESTIMATE, grid=EpsilonGrid(stop=0.3, step=0.01))
    record = run_estimate(source(), finer, workplace, suite="demo")
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
    workplace = place(keep_adversarials=True)
    record = run_estimate(source(), estimate, workplace, suite="demo")
    kept = workplace.store.adversarials(record.digest)
    other = place()
    assert comparable(run_estimate(source(), estimate, other, suite="demo")) == comparable(record)
    assert other.store.adversarials(record.digest) is None

    found = [
        (image, p) for image, p in zip(record.robustness.images, record.robustness.pstar, strict=True) if 0 <= p < 21
    ]
    assert kept.shape == (len(found), 1, 8, 8)
    assert len(found) > 2
    test = load("near", folder=workplace.data).test.take(torch.tensor([image for image, _ in found]))
    distance = (kept - test.images.float() / 255).abs().flatten(1).amax(1)
    assert (distance <= torch.tensor([record.robustness.grid[p] for _, p in found]) + 1e-6).all()
    with torch.no_grad():
        assert (load_network(source(), workplace)(kept).argmax(1) != test.labels).all()


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


@pytest.mark.parametrize("resume", [False, True])
def test_changed_images_are_noticed(place, ran, resume):
    """A dataset file that was overwritten is not what the stored model learnt: training and estimate run again."""
    before = run_estimate(source(), ESTIMATE, place(), suite="demo")
    workplace = place(resume=resume)
    write_images(workplace.data, "near", seed=9)
    ran.clear()
    after = run_estimate(source(), ESTIMATE, workplace, suite="demo", under_test=False)
    assert ran == ["train", "estimate"]
    assert after.data.sha256 != before.data.sha256


def test_changed_images_of_the_source_are_noticed(place, ran):
    """A transfer whose source learnt other images is made again, source, transfer and estimate, although its own stay."""
    run_estimate(target(), ESTIMATE, place(), suite="demo")
    workplace = place(resume=True)
    ran.clear()
    run_estimate(target(), ESTIMATE, workplace, suite="demo")
    assert ran == []
    write_images(workplace.data, "near", seed=9)
    run_training(source(), workplace, suite="demo")
    run_estimate(target(), ESTIMATE, workplace, suite="demo")
    assert ran == ["train", "train", "estimate"]


# --- a user's own weights ---------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_source_without_training(place, ran, tmp_path):
    """Its weights, body. before their names or not, are stored as they are; only the transfer is trained."""
    network = build("own_networks:small", classes=3, shape=(1, 8, 8), seed=5)
    save_file({f"body.{name}": value for name, value in weights(network).items()}, tmp_path / "mine.safetensors")
    mine = Model(
        architecture="own_networks:small",
        dataset=Dataset(name="near"),
        checkpoint=Checkpoint(path=str(tmp_path / "mine.safetensors")),
    )
    workplace = place()
    record = run_estimate(target(1, of=mine), ESTIMATE, workplace, suite="demo")
    assert ran == ["train", "estimate"]
    assert record.model.source_method == "checkpoint"
    stored = workplace.store.weights(mine.digest)
    assert all(torch.equal(value, stored[name]) for name, value in weights(network).items())
    kept = workplace.store.weights(target(1, of=mine).digest)
    assert torch.equal(kept["4.weight"], stored["4.weight"])

    trained = run_training(mine, workplace, suite="demo")
    _, validation = robbench.assembly.training_parts(
        mine.dataset, load("near", folder=workplace.data), workplace.device
    )
    assert trained.training.epochs == []
    assert (trained.training.best, trained.training.forward, trained.training.backward) == (0, 12, 0)
    assert trained.training.validation == validate(network, RECIPE, validation, seed=0)[0]
    assert trained.model.method == "checkpoint"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": torch.zeros(4, 1, 3, 3)}, r"do not fit own_networks:small .*missing: 0\.bias"),
        (None, "expected a safetensors file"),
    ],
    ids=["other layers", "not safetensors"],
)
def test_a_checkpoint_that_does_not_fit_fails_before_any_training(place, ran, tmp_path, content, message):
    """Weights of another network and a file that is none are found by the check of what depends on them."""
    path = tmp_path / "mine.safetensors"
    if content is None:
        path.write_bytes(b"\x80\x04pickle")
    else:
        save_file(content, path)
    dataset = Dataset(name="near")
    mine = Model(architecture="own_networks:small", dataset=dataset, checkpoint=Checkpoint(path=str(path)))
    with pytest.raises(RobbenchError, match=message):
        run_training(target(1, of=mine), place(), suite="demo")
    assert ran == []


# --- failures ---------------------------------------------------------------------------------------------------------


def test_what_depends_on_a_failed_stage_fails_at_once_with_its_reason(place, ran):
    """A source that diverges is tried once: transfers of it and estimates of them name the divergence."""
    workplace = place()
    bad = source(learning_rate=1e30, clip_norm=None, epochs=3)
    with pytest.raises(RobbenchError, match="training diverged"):
        run_training(target(1, of=bad), workplace, suite="demo")
    assert ran == ["train"]
    for model in (bad, target(1, of=bad), target(2, of=bad)):
        with pytest.raises(RobbenchError, match=r"failed before: .*training diverged: the loss is"):
            run_estimate(model, ESTIMATE, workplace, suite="demo")
    assert ran == ["train"]
    run_training(source(), workplace, suite="demo")
    with pytest.raises(RobbenchError, match=r"^training diverged"):
        run_training(bad, place(), suite="demo")


def test_an_interruption_is_no_failure(place, ran):
    """After Ctrl-C the stage may be tried again in the same session."""

    def stop(what, done, total):
        raise KeyboardInterrupt

    workplace = place(show=stop)
    with pytest.raises(KeyboardInterrupt):
        run_training(source(), workplace, suite="demo")
    assert workplace.failed == {}
    run_training(source(), replace(workplace, show=lambda *progress: None), suite="demo")
    assert ran == ["train", "train"]


def test_a_missing_dataset_is_found_before_training(place, ran):
    """The target's as well as the source's, before the source is trained."""
    for model in (target(1, dataset="nowhere"), target(1, of=source("nowhere"))):
        with pytest.raises(RobbenchError, match=r"unknown dataset 'nowhere'"):
            run_training(model, place(), suite="demo")
    assert ran == []


def test_images_of_another_shape_are_found_before_training(place, ran, tmp_path):
    """A network for 28x28 images, a source of one size or channel count and a target of another: no training starts."""
    write_images(tmp_path / "data", "large", side=12)
    write_images(tmp_path / "data", "colour", channels=3)
    with pytest.raises(RobbenchError, match=r"cnn7 takes 1x28x28 images, got 1x8x8"):
        check(source(architecture="cnn7"), place())
    with pytest.raises(RobbenchError, match=r"expected images that .*near.* takes, 1x8x8, got 3x8x8"):
        run_training(target(1, dataset="colour"), place(), suite="demo")
    with pytest.raises(RobbenchError, match=r"expected images that .*near.* takes, 1x8x8, got 1x12x12"):
        run_training(target(1, of=source(architecture="own_networks:rigid"), dataset="large"), place(), suite="demo")
    assert ran == []


def test_a_network_for_any_size_may_be_transferred_to_larger_images(place, tmp_path):
    """Pooling before the head takes 12x12 images after 8x8 ones, through training and estimate."""
    write_images(tmp_path / "data", "large", side=12)
    record = run_estimate(target(2, dataset="large"), ESTIMATE, place(), suite="demo")
    assert len(record.robustness.pstar) == 20


def test_more_blocks_than_a_network_has_are_found_before_training(place, ran):
    """Only the built network knows its blocks: TL#5 of a network of four is an error before the source is trained."""
    with pytest.raises(RobbenchError, match=r"k: expected 1…4 for own_networks:small, got 5"):
        run_training(target(5), place(), suite="demo")
    assert ran == []


def test_a_store_that_cannot_be_written_is_found_before_training(place, ran, tmp_path):
    """A file where the store should be is named before anything is computed."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RobbenchError, match=r"file.* cannot be written"):
        run_training(source(), place(folder=tmp_path / "file" / "store"), suite="demo")
    assert ran == []


def test_normalisation_of_another_length_is_found_before_training(place):
    """Three means for grey images are an error, even after a sound model of the same network was checked."""
    workplace = place()
    check(source(), workplace)
    coloured = replace(source(), dataset=Dataset(name="near", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0)))
    with pytest.raises(RobbenchError, match="mean: expected 1 values, one for each channel"):
        check(coloured, workplace)


# --- weights that change ----------------------------------------------------------------------------------------------


def retrain(workplace, model):
    """Put other weights in the place of a trained model's, under its digest, as another machine would."""
    finished, moved = workplace.store.finished(model.digest), workplace.store.weights(model.digest)
    moved["0.weight"].neg_()
    workplace.store.finish(finished.record, moved, inputs=finished.inputs, made_from=finished.made_from)


def test_pstar_of_former_weights_is_estimated_again(place, ran):
    """A model trained anew has none of the p* of the one before, and the run says so; with the same weights it is reused."""
    said = []
    former = run_estimate(source(), FOOLING, place(), suite="demo")
    run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo")
    assert (ran, said) == (["train", "estimate"], [])
    retrain(place(), source())
    later = run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo")
    assert ran == ["train", "estimate", "estimate"]
    assert said == [f"{source().id}: p* is estimated again, the finished stage is of former weights"]
    assert later.robustness.pstar != former.robustness.pstar
    assert run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo") == later
    assert len(ran) == 3


def test_a_transfer_from_former_weights_is_trained_again(place, ran):
    """Its p* with it; a source that came out as before, or is not in the store any more, leaves both as they are."""
    said, model = [], target()
    run_estimate(model, FOOLING, place(), suite="demo")
    run_training(source(), place(), suite="demo")
    run_estimate(model, FOOLING, place(resume=True, say=said.append), suite="demo")
    assert (ran, said) == (["train", "train", "estimate", "train"], [])
    ran.clear()
    retrain(place(), source())
    run_estimate(model, FOOLING, place(resume=True, say=said.append), suite="demo")
    assert ran == ["train", "estimate"]
    assert said == [
        f"{model.id}: trained again, the finished stage began with former weights of {source().id}",
        f"{model.id}: p* is estimated again, the finished stage is of former weights",
    ]
    workplace = place(resume=True, say=said.append)
    (workplace.store.folder / source().digest[:2] / source().digest / "stage.json").unlink()
    run_estimate(model, FOOLING, workplace, suite="demo")
    assert (len(ran), len(said)) == (2, 2)


def test_a_transfer_of_a_transfer_from_former_weights_is_trained_again(place, ran):
    """However far back the weights changed."""
    last = target(of=target(), dataset="near")
    run_training(last, place(), suite="demo")
    retrain(place(), source())
    ran.clear()
    run_training(last, place(resume=True), suite="demo")
    assert ran == ["train", "train"]


@pytest.mark.parametrize("stage", ["training", "robustness"])
def test_a_stage_that_does_not_name_its_weights_is_reused(place, ran, stage):
    """As older versions left it: a store of theirs stays of use."""
    model = target()
    run_estimate(model, ESTIMATE, place(), suite="demo")
    ran.clear()
    store = place().store
    digest = model.digest if stage == "training" else model.estimate_digest(ESTIMATE)
    finished = store.finished(digest)
    assert finished.made_from is not None
    store.finish(finished.record, store.weights(digest) if stage == "training" else None, inputs=finished.inputs)
    retrain(place(), source() if stage == "training" else model)
    run_training(model, place(resume=True), suite="demo")
    if stage == "robustness":
        run_estimate(model, ESTIMATE, place(resume=True), suite="demo")
    assert ran == []


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_an_unfinished_search_of_former_weights_is_not_gone_on_with(place, tmp_path, monkeypatch, search):
    """Resumed after the model was trained anew, it begins anew, says so, and ends as if there had been no checkpoint."""
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 4)
    estimate, said = replace(FOOLING, search=search), []
    with pytest.raises(Killed):
        run_estimate(source(), estimate, place(show=killer("p*", 4)), suite="demo")
    retrain(place(), source())
    record = run_estimate(source(), estimate, place(resume=True, say=said.append), suite="demo")
    assert said == [f"{source().id}: p* is estimated from the start, its checkpoint is of former weights"]
    assert comparable(record) == comparable(run_estimate(source(), estimate, place(), suite="demo"))


def test_an_unfinished_transfer_from_former_weights_is_not_gone_on_with(place):
    """Resumed after its source was trained anew, it begins at the first epoch, and says so."""
    model, said, shown = target(recipe=replace(RECIPE, epochs=3)), [], []
    run_training(source(), place(), suite="demo")
    with pytest.raises(Killed):
        run_training(model, place(show=killer("training", 8)), suite="demo")
    retrain(place(), source())
    workplace = place(resume=True, say=said.append, show=lambda what, done, total: shown.append(done))
    run_training(model, workplace, suite="demo")
    assert min(shown) == 0.0
    assert said == [f"{model.id}: trained from the start, its checkpoint began with former weights of {source().id}"]


# --- interruptions ----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """The process was killed."""


def killer(word, call):
    """A ``show`` that kills at the given call about what begins with ``word``."""
    calls = [0]

    def show(what, done, total):
        assert 0 <= done <= total
        calls[0] += what.startswith(word)
        if what.startswith(word) and calls[0] == call:
            raise Killed

    return show


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

    def job(workplace):
        return run_training(model, workplace, suite="demo")

    whole = place(folder=tmp_path / "other")
    expected = job(whole)
    first, second, record = run_killed(place, "training", call, job)
    assert comparable(record) == comparable(expected)
    one, other = (workplace.store.weights(model.digest) for workplace in (whole, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert first.store.load_checkpoint(model.digest) is None


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
    assert sum(epoch.seconds for epoch in history) == pytest.approx(record.seconds.training, abs=1e-4)


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
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 4)
    estimate = replace(TESTED, search=search)

    def job(workplace):
        return run_estimate(source(), estimate, workplace, suite="demo")

    shown = []
    expected = job(place(folder=tmp_path / "other", show=lambda what, *_: shown.append(what)))
    call = min(call, sum(what.startswith(word) for what in shown))
    first, _, record = run_killed(place, word, call, job)
    assert comparable(record) == comparable(expected)
    assert first.store.load_checkpoint(record.digest) is None


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_kept_counterexamples_survive_a_kill(place, tmp_path, monkeypatch, search):
    """They are part of the checkpoint: the resumed search has kept bit by bit what an uninterrupted one keeps."""
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 7)
    estimate = replace(FOOLING, search=search)

    def job(workplace):
        return run_estimate(source(), estimate, replace(workplace, keep_adversarials=True), suite="demo")

    whole = place(folder=tmp_path / "other")
    expected = job(whole)
    _, second, record = run_killed(place, "p*", 3, job)
    assert record.robustness.pstar == expected.robustness.pstar
    kept = second.store.adversarials(record.digest)
    assert len(kept) > 2
    assert torch.equal(kept, whole.store.adversarials(record.digest))


def test_a_checkpoint_without_counterexamples_is_not_enough_for_one_with(place, monkeypatch):
    """The search begins anew, and says so; with the option gone again, what the checkpoint kept is gone on with."""
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 7)
    said = []
    for keeps, text in (
        (False, [f"{source().id}: p* is estimated from the start, its checkpoint kept no counterexamples"]),
        (True, []),
    ):
        said.clear()
        with pytest.raises(Killed):
            run_estimate(source(), FOOLING, place(show=killer("p*", 3), keep_adversarials=keeps), suite="demo")
        workplace = place(resume=True, keep_adversarials=not keeps, say=said.append)
        record = run_estimate(source(), FOOLING, workplace, suite="demo")
        kept = workplace.store.adversarials(record.digest)
        assert len(kept) == sum(0 <= p < len(record.robustness.grid) for p in record.robustness.pstar) > 2
        assert said == text
        assert kept.flatten(1).amax(1).all()


def test_a_resumed_search_keeps_its_batch(place, monkeypatch):
    """Where more memory is free than before the kill, the search goes on with as many images as before: other numbers round otherwise."""
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 4)
    with pytest.raises(Killed):
        run_estimate(source(), ESTIMATE, place(show=killer("p*", 3)), suite="demo")
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 256)
    sizes, probe = [], robbench.estimation._probe

    def spy(task, state, batch, loop):
        sizes.append(len(batch))
        probe(task, state, batch, loop)

    monkeypatch.setattr(robbench.estimation, "_probe", spy)
    run_estimate(source(), ESTIMATE, place(resume=True), suite="demo")
    assert max(sizes) == 4


def test_a_resumed_estimate_counts_the_seconds_before_it(place, monkeypatch):
    """What the killed search had measured is in its checkpoint, and in the record of the resumed one."""
    monkeypatch.setattr(robbench.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.memory.LARGEST_BATCH, "cpu", 7)
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
