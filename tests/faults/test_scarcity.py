"""Too little memory, a full disk, a store that vanishes: what can go on goes on to the same result, the rest says so."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import robbench.estimation.search
import robbench.stages.networks
import robbench.stages.pipeline
import robbench.stages.robustness
import robbench.training.features
from robbench.data import Images
from robbench.errors import RobbenchError
from robbench.estimation.fixed_radii import attack_accuracies
from robbench.machine.memory import Batches, must_fit_whole
from robbench.models import build, weights
from robbench.record import Record, Seconds
from robbench.spec import PGD, Checkpoint, Dataset, EpsilonGrid, Estimate, Model, Recipe, Transfer
from robbench.stages.context import RunContext
from robbench.stages.pipeline import run_estimate, run_training
from robbench.store.store import Store
from robbench.training.features import extract
from robbench.training.updates import validate

CPU = torch.device("cpu")
RECIPE = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0.0, batch_size=16, epochs=3)
ADVERSARIAL = replace(RECIPE, attack=PGD(epsilon=0.1, steps=2))
ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.3, step=0.02), attack=PGD(steps=2, random_start=False), images=20)


class Room(nn.Module):
    """Has memory for so many images in an update, and for so many in everything else."""

    update = judged = 10**9

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The images themselves."""
        if len(images) > (Room.update if self.training and torch.is_grad_enabled() else Room.judged):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return images


def small(classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """A convolution and a linear layer, with a door of limited width in front."""
    return nn.Sequential(Room(), nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, classes))


@pytest.fixture(autouse=True)
def _own_code(monkeypatch: pytest.MonkeyPatch):
    module = types.ModuleType("own_networks")
    module.small = small  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_networks", module)
    monkeypatch.setattr(Room, "update", 10**9)
    monkeypatch.setattr(Room, "judged", 10**9)
    robbench.stages.networks._load.cache_clear()
    yield
    robbench.stages.networks._load.cache_clear()


@pytest.fixture
def place(tmp_path: Path) -> Callable[..., RunContext]:
    """A function that makes the context of a new session; all share one store."""
    numbers, labels = np.random.default_rng(0), np.arange(60) % 3
    images = numbers.integers(0, 150, (60, 8, 8), dtype=np.uint8)
    images[np.arange(60), labels] += 100
    for name in ("near", "far"):
        (tmp_path / "data").mkdir(exist_ok=True)
        arrays = {"x_train": images, "y_train": labels, "x_test": images[:30], "y_test": labels[:30]}
        np.savez(tmp_path / "data" / f"{name}.npz", classes=np.array(["a", "b", "c"]), **arrays)
    sessions = iter(range(1000))

    def make(folder: str = "store", **options: object) -> RunContext:
        store = Store(tmp_path / folder, run=f"run {next(sessions)}")
        return RunContext(store=store, data=tmp_path / "data", device=CPU, **options)

    return make


def source(recipe: Recipe = RECIPE) -> Model:
    """A model trained from scratch."""
    return Model(architecture="own_networks:small", dataset=Dataset(name="near"), recipe=recipe)


def target() -> Model:
    """Its last layer retrained on other data."""
    dataset = Dataset(name="far")
    return Model(
        architecture="own_networks:small", dataset=dataset, recipe=RECIPE, transfer=Transfer(k=1), source=source()
    )


def comparable(record: Record) -> Record:
    """A record without durations, date and notes."""
    training = record.training and msgspec.structs.replace(
        record.training,
        epochs=[msgspec.structs.replace(e, seconds=0.0, validation_seconds=0.0) for e in record.training.epochs],
    )
    return msgspec.structs.replace(record, seconds=Seconds(), created="", result=training or record.result, notes=[])


def same_weights(one: RunContext, other: RunContext, model: Model) -> bool:
    """Whether two stores hold bit by bit the same model."""
    first, second = one.store.weights(model.digest), other.store.weights(model.digest)
    return all(torch.equal(value, second[name]) for name, value in first.items())


# --- memory -----------------------------------------------------------------------------------------------------------


class Seeing(nn.Module):
    """Keeps the images that it classifies without gradients."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.seen = inner, []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of the network inside."""
        logits = self.inner(images)
        if not torch.is_grad_enabled():
            self.seen.append(images)
        return logits


def judged_set(count: int = 300) -> Images:
    """More images than validation judges at once."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 1, 8, 8), generator=generator, dtype=torch.uint8)
    return Images(images, torch.randint(0, 3, (count,), generator=generator))


@pytest.mark.parametrize("room", [255, 100, 1])
def test_validation_with_random_starts_is_the_same_in_smaller_batches(
    monkeypatch: pytest.MonkeyPatch, room: int
) -> None:
    """Every image starts where it would have started, and the halved batches are noted once each."""
    network = Seeing(build("own_networks:small", classes=3, shape=(1, 8, 8)))
    enough = validate(network, ADVERSARIAL, judged_set(), seed=5)
    attacked = torch.cat(network.seen[1::2])
    network.seen.clear()
    monkeypatch.setattr(Room, "judged", room)
    judging = Batches("validation", 256)
    scarce = validate(network, ADVERSARIAL, judged_set(), seed=5, judging=judging)
    assert scarce == enough
    torch.testing.assert_close(torch.cat(network.seen[1::2]), attacked)
    assert judging.size <= room
    assert judging.notes == [
        f"out of memory: validation went on with batches of {256 // 2**n} images"
        for n in range(1, len(judging.notes) + 1)
    ]


def test_features_are_the_same_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the frozen blocks see is computed in halves, and said so."""
    part = build("own_networks:small", classes=3, shape=(1, 8, 8)).eval()
    enough = extract(part, judged_set(70), Batches("features", 64))
    monkeypatch.setattr(Room, "judged", 20)
    halved = Batches("features", 64)
    scarce = extract(part, judged_set(70), halved)
    torch.testing.assert_close(scarce.images, enough.images)
    assert halved.notes == [f"out of memory: features went on with batches of {size} images" for size in (32, 16)]


def test_the_final_test_notes_its_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """The counts are the same."""
    network, images = build("own_networks:small", classes=3, shape=(1, 8, 8)), judged_set(30)
    correct, attack = torch.ones(30, dtype=torch.bool), PGD(epsilon=0.1, steps=2, random_start=False)
    enough = attack_accuracies(network, images.images, images.labels, correct, [attack], batch_size=16)
    monkeypatch.setattr(Room, "judged", 9)
    notes: list[str] = []
    scarce = attack_accuracies(network, images.images, images.labels, correct, [attack], batch_size=16, notes=notes)
    assert scarce == enough
    assert notes == ["out of memory: the final test went on with batches of 8 images"]


def test_a_stage_short_of_memory_has_the_same_result_and_says_so(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Transfer on features, validation, p*: the record is that of a roomy machine, with notes."""
    monkeypatch.setattr(robbench.training.features, "FLOPS_PER_BYTE", 0)  # of so small a network features would not pay
    roomy, tight = place("roomy"), place("tight")
    expected = [run_training(target(), roomy, suite="s"), run_estimate(target(), ESTIMATE, roomy, suite="s")]
    monkeypatch.setattr(Room, "judged", 7)
    found = [run_training(target(), tight, suite="s"), run_estimate(target(), ESTIMATE, tight, suite="s")]
    assert [comparable(record) for record in found] == [comparable(record) for record in expected]
    assert [note.split(" went on")[0] for note in found[0].notes] == ["out of memory: the frozen blocks' features"] * 2
    assert found[1].notes
    assert all(note.startswith("out of memory: p* went on with batches of") for note in found[1].notes)
    assert [record.notes for record in expected] == [[], []]


def test_a_checkpoints_accuracy_is_taken_in_smaller_batches(place, monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """A user's weights are judged all the same."""
    save_file(weights(build("own_networks:small", classes=3, shape=(1, 8, 8))), tmp_path / "mine.safetensors")
    mine = Model(
        architecture="own_networks:small",
        dataset=Dataset(name="near"),
        checkpoint=Checkpoint(path=str(tmp_path / "mine.safetensors")),
    )
    expected = run_training(mine, place("roomy"), suite="s")
    monkeypatch.setattr(Room, "judged", 7)
    found = run_training(mine, place("tight"), suite="s")
    assert comparable(found) == comparable(expected)
    assert found.notes == [f"out of memory: validation went on with batches of {size} images" for size in (6,)]


def test_an_update_that_does_not_fit_is_one_error_and_its_checkpoint_stays(place, monkeypatch) -> None:
    """In the third epoch: what to do is said, two epochs stay, and a roomier device goes on to the same bits."""

    def shrink(what: str, done: float, total: float) -> None:
        monkeypatch.setattr(Room, "update", 8 if done >= 2 else 10**9)

    whole, tight = place("whole"), place("tight", show=shrink)
    expected = run_training(source(ADVERSARIAL), whole, suite="s")
    with pytest.raises(RobbenchError) as caught:
        run_training(source(ADVERSARIAL), tight, suite="s")
    assert str(caught.value) == (
        "out of memory: an update of 16 images does not fit on cpu, and a smaller one would change the result; set a "
        "smaller batch_size in the recipe, or use another device (--robbench-device); finished epochs stay, and "
        "--robbench-resume goes on from them"
    )
    kept = tight.store.load_checkpoint(source(ADVERSARIAL).digest)
    assert kept is not None
    assert [epoch["epoch"] for epoch in kept[1]["history"]] == [1, 2]
    monkeypatch.setattr(Room, "update", 10**9)
    resumed = run_training(source(ADVERSARIAL), place("tight", resume=True), suite="s")
    assert comparable(resumed) == comparable(expected)
    assert same_weights(whole, tight, source(ADVERSARIAL))


def test_room_for_not_even_one_image_is_one_error(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the warm-up before the first epoch as well as in p*; the model that was trained stays."""

    def scarce(*arguments: object, **options: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    context = place()
    monkeypatch.setattr(Room, "update", 0)
    with pytest.raises(RobbenchError, match=r"^out of memory: an update of 16 images does not fit"):
        run_training(source(), place(), suite="s")
    monkeypatch.setattr(Room, "update", 16)
    monkeypatch.setattr(robbench.estimation.search, "pgd", scarce)
    with pytest.raises(RobbenchError, match=r"^out of memory: not even one image at a time fits on cpu; free memory"):
        run_estimate(source(), ESTIMATE, context, suite="s")
    assert context.store.finished(source().digest) is not None


def test_a_network_that_does_not_fit_is_one_error(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moving it to the device can be done in no smaller steps."""

    def placing(network: nn.Module, device: torch.device) -> nn.Module:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(robbench.stages.pipeline, "place", placing)
    with pytest.raises(
        RobbenchError, match=r"out of memory: .*near-standard \(training\) does not fit on cpu; free memory there"
    ):
        run_training(source(), place(), suite="s")


def test_other_errors_are_not_taken_for_a_lack_of_memory() -> None:
    """They come through as they are."""
    with pytest.raises(RuntimeError, match="shapes"), must_fit_whole("x", "y"):
        raise RuntimeError("shapes cannot be multiplied")


# --- disks ------------------------------------------------------------------------------------------------------------


def full(monkeypatch: pytest.MonkeyPatch, ending: str, function: str = "replace", code: int = errno.ENOSPC) -> None:
    """A disk on which files of that name cannot be written any more."""
    original = getattr(os, function)

    def fail(first, *rest, **options):
        names = " ".join(str(name) for name in (first, *rest))
        if ending in names:
            raise OSError(code, os.strerror(code), names)
        return original(first, *rest, **options)

    monkeypatch.setattr(os, function, fail)


def leftovers(folder: Path) -> list[str]:
    """Temporary files that a broken write left behind."""
    return [path.name for path in folder.rglob(".*") if path.is_file()]


@pytest.mark.parametrize(("code", "words"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "weights.safetensors", "stage.json"])
def test_a_training_that_cannot_be_written_leaves_nothing_half(place, monkeypatch, name, code, words) -> None:
    """One sentence names the file; once there is room, resuming ends with the bits of an undisturbed run."""
    whole, context = place("whole"), place("full")
    expected = run_training(source(), whole, suite="s")
    with monkeypatch.context() as patch:
        full(patch, name, code=code)
        with pytest.raises(RobbenchError, match=rf"{name}' cannot be written: {words}") as caught:
            run_training(source(), context, suite="s")
        assert "\n" not in str(caught.value)
        assert context.store.finished(source().digest) is None
    assert leftovers(context.store.folder) == []
    resumed = run_training(source(), place("full", resume=True), suite="s")
    assert comparable(resumed) == comparable(expected)
    assert same_weights(whole, context, source())


def test_a_search_that_cannot_be_written_leaves_the_model(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The checkpoint of p* fails; the trained model stays, and is used by the next run."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    context = place()
    run_training(source(), context, suite="s")
    with monkeypatch.context() as patch:
        full(patch, "checkpoint.safetensors")
        with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors' cannot be written: No space"):
            run_estimate(source(), ESTIMATE, context, suite="s")
    assert context.store.finished(source().digest) is not None
    assert leftovers(context.store.folder) == []
    assert run_estimate(source(), ESTIMATE, place(), suite="s").robustness is not None


@pytest.mark.parametrize("function", ["mkdir", "open"])
def test_a_lock_that_cannot_be_made_is_one_error(place, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    """A store that became read-only after the check: the folder of a digest, or the lock in it."""
    digest = source().digest
    store = place().store
    if function == "open":
        (store.folder / digest[:2] / digest).mkdir(parents=True)
    full(monkeypatch, digest, function, errno.EROFS)
    with (
        pytest.raises(RobbenchError, match=rf"store '.*{digest}' cannot be locked: Read-only file system"),
        store.lock(digest),
    ):
        pytest.fail("locked")


def test_a_stage_that_cannot_be_replaced_stays_as_it_was(place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished stage in a store that became read-only is not touched by a new run of it."""
    record = run_training(source(), place(), suite="s")
    with monkeypatch.context() as patch:
        full(patch, "stage.json", "replace", errno.EROFS)
        with pytest.raises(RobbenchError, match=r"stage\.json' cannot be written: Read-only file system"):
            place().store.finish(record)
    found = place().store.finished(source().digest)
    assert found is not None
    assert comparable(msgspec.structs.replace(found.record, suite="s")) == comparable(record)


def test_a_store_that_vanishes_between_stages_is_made_again(place) -> None:
    """The model is trained once more, to the same p*."""
    context = place()
    run_training(source(), context, suite="s")
    expected = run_estimate(source(), ESTIMATE, context, suite="s")
    shutil.rmtree(context.store.folder)
    assert comparable(run_estimate(source(), ESTIMATE, context, suite="s")) == comparable(expected)


def test_a_store_that_vanishes_during_a_stage_costs_that_stage_at_most(place) -> None:
    """Deleted in the second epoch: what is in memory is written to a new folder, lock or no lock."""
    context = place("gone")

    def vanish(what: str, done: float, total: float) -> None:
        if 1 < done < 2:
            shutil.rmtree(context.store.folder, ignore_errors=True)

    record = run_training(source(), replace(context, show=vanish), suite="s")
    assert comparable(record) == comparable(run_training(source(), place("whole"), suite="s"))
    assert context.store.finished(source().digest) is not None


def test_a_file_in_the_place_of_the_store_is_one_error_per_stage(place) -> None:
    """While a run goes on: nothing else breaks, and the message names the path."""
    context = place("gone")
    run_training(source(), context, suite="s")
    shutil.rmtree(context.store.folder)
    context.store.folder.write_text("")
    with pytest.raises(RobbenchError, match=r"gone.* cannot be locked: Not a directory|File exists"):
        run_estimate(source(), ESTIMATE, context, suite="s")
