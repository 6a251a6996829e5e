"""What cannot run fails early with one sentence, and what depends on it with it."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from stages import ESTIMATE, RECIPE, Room, comparable, estimate, killer, source, target, train, write_images

import robbench.stages.training_stage
import robbench.training.features
from robbench.errors import RobbenchError
from robbench.spec import Checkpoint, Dataset, Model
from robbench.stages.checks import check


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"0.weight": torch.zeros(4, 1, 3, 3)}, r"do not fit own_networks:small .*missing: 0\.bias"),
        (None, "expected a safetensors file"),
    ],
    ids=["other layers", "a pickle"],
)
def test_a_checkpoint_that_does_not_fit_fails_before_any_training(new_run, made, tmp_path, content, message):
    """Weights of another network and a file that is none are found by the check of what depends on them."""
    path = tmp_path / "mine.safetensors"
    if content is None:
        path.write_bytes(b"\x80\x04pickle")
    else:
        save_file(content, path)
    checkpoint = Checkpoint(path=str(path), mean=0, std=1)
    mine = Model(architecture="own_networks:small", dataset=Dataset(name="near"), checkpoint=checkpoint)
    with pytest.raises(RobbenchError, match=message):
        train(target(1, of=mine), new_run())
    assert made == []


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (target(1, dataset="nowhere"), "unknown dataset 'nowhere'"),
        (target(1, of=source("nowhere")), "unknown dataset 'nowhere'"),
        (source(architecture="cnn7"), "cnn7 takes 1x28x28 images, got 1x8x8"),
        (target(1, dataset="colour"), "expected images that .*near.* takes, 1x8x8, got 3x8x8"),
        (
            target(1, of=source(architecture="own_networks:rigid"), dataset="large"),
            "expected images that .*near.* takes, 1x8x8, got 1x12x12",
        ),
        (target(5), "k: expected 1…4 for own_networks:small, got 5"),
        (
            replace(source(), dataset=Dataset(name="near", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0))),
            "mean: expected 1 values, one for each channel",
        ),
    ],
)
def test_what_does_not_fit_is_found_before_training(new_run, made, model, message):
    """Data, shapes, blocks and normalisation of a model and of its source."""
    context = new_run()
    write_images(context.data, "large", side=12)
    write_images(context.data, "colour", channels=3)
    check(source(), context)
    with pytest.raises(RobbenchError, match=message):
        train(model, context)
    assert made == []


def test_a_network_for_any_size_may_be_transferred_to_larger_images(new_run):
    """Pooling before the head takes 12x12 images after 8x8 ones."""
    context = new_run()
    write_images(context.data, "large", side=12)
    assert len(estimate(target(2, dataset="large"), context).robustness.pstar) == 20


def test_a_store_that_cannot_be_written_is_found_before_training(new_run, made, tmp_path):
    """A file where the store should be is named before anything is computed."""
    (tmp_path / "file").write_text("x")
    with pytest.raises(RobbenchError, match=r"file.* cannot be written"):
        train(source(), new_run("file/store"))
    assert made == []


def test_what_depends_on_a_failed_stage_fails_at_once_with_its_reason(new_run, made):
    """A source that diverges is tried once in a run, and again in the next."""
    context = new_run()
    bad = source(learning_rate=1e6, clip_norm=None, epochs=3)
    with pytest.raises(RobbenchError, match="training diverged"):
        train(target(1, of=bad), context)
    for model in (bad, target(1, of=bad), target(2, of=bad)):
        with pytest.raises(RobbenchError, match=r"failed before: .*training diverged: the loss is"):
            estimate(model, context)
    assert made == ["training"]
    with pytest.raises(RobbenchError, match=r"^training diverged"):
        train(bad, new_run())


def test_an_interruption_is_no_failure(new_run, made):
    """After Ctrl-C the stage may be tried again in the same process."""

    def stop(what, done, total, *_):
        raise KeyboardInterrupt

    context = new_run(show=stop)
    with pytest.raises(KeyboardInterrupt):
        train(source(), context)
    train(source(), replace(context, show=lambda *progress: None))
    assert made == ["training"] * 2


# --- memory -----------------------------------------------------------------------------------------------------------

NARROW = source(architecture="own_networks:narrow", epochs=3)


def test_a_stage_short_of_memory_has_the_same_result_and_says_so(new_run, monkeypatch):
    """Features, validation and p* go on in smaller batches: the record is that of a roomy machine, with notes."""
    monkeypatch.setattr(robbench.training.features, "FLOPS_PER_BYTE", 0)  # of so small a network features would not pay
    model = target(of=replace(NARROW, recipe=RECIPE))  # an attack is a part of the update, which is never split
    expected = [train(model, new_run("roomy")), estimate(model, new_run("roomy"))]
    monkeypatch.setattr(Room, "judged", 7)
    found = [train(model, new_run("tight")), estimate(model, new_run("tight"))]
    for one, other in zip(found, expected, strict=True):
        assert replace_notes(comparable(one)) == replace_notes(comparable(other))
        assert one.notes
        assert all(note.startswith("out of memory: ") for note in one.notes)
        assert other.notes == []


def replace_notes(record):
    """A record without its notes and what names its key."""
    import msgspec

    return msgspec.structs.replace(record, notes=[])


def test_an_update_that_does_not_fit_is_one_error_and_its_state_stays(new_run, monkeypatch):
    """In the third epoch: what to do is said, two epochs stay, and a roomier device goes on to the same bits."""

    def shrink(what, done, total, *_):
        monkeypatch.setattr(Room, "update", 8 if done >= 2 else 10**9)

    expected, tight = train(NARROW, new_run("whole")), new_run("tight", show=shrink)
    with pytest.raises(RobbenchError, match="out of memory: an update of 16 images does not fit on cpu, and a smaller"):
        train(NARROW, tight)
    monkeypatch.setattr(Room, "update", 10**9)
    shown = []
    resumed = train(NARROW, new_run("tight", show=lambda what, done, *_: shown.append(done)))
    assert min(shown) >= 2
    assert comparable(resumed) == comparable(expected)


def test_a_network_that_does_not_fit_is_one_error(new_run, monkeypatch):
    """Moving it to the device can be done in no smaller steps."""

    def place(network, device):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(robbench.stages.training_stage, "place", place)
    with pytest.raises(RobbenchError, match=r"out of memory: .*near-pgd\.training does not fit on cpu; free memory"):
        train(source(), new_run())


# --- disks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.safetensors", "weights.", "stage.json"])
def test_a_training_that_cannot_be_written_leaves_nothing_half(new_run, monkeypatch, name):
    """One sentence names the file; once there is room, the next run ends with the record of an undisturbed one."""
    expected, context = train(source(), new_run("whole")), new_run("full")
    replace_file = os.replace

    def full(first, second):
        if name in str(second):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace_file(first, second)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RobbenchError, match=rf"{name}.* cannot be written: No space left") as caught:
            train(source(), context)
        assert "\n" not in str(caught.value)
    assert not [*context.store.folder.rglob(".writing*")]
    assert comparable(train(source(), new_run("full"))) == comparable(expected)


@pytest.mark.parametrize("damage", ["other weights", "no weights", "no seconds"])
def test_damaged_state_says_what_to_remove(new_run, damage):
    """A state that is none of this network's, or lacks what every state has."""
    model = source(epochs=3)
    first = new_run(show=killer("training", 8))
    with pytest.raises(BaseException):  # noqa: B017, PT011 - Killed is no Exception
        train(model, first)
    (path,) = first.store.folder.rglob("state.safetensors")
    key = path.parent.name
    state = first.store.load_state(key)
    match damage:
        case "other weights":
            state["training"]["weights"] = {"0.weight": torch.zeros(2)}
        case "no weights":
            del state["training"]["weights"]
        case "no seconds":
            del state["seconds"]
    first.store.save_state(key, state)
    with pytest.raises(
        RobbenchError, match=rf"state\.safetensors is damaged .*; remove the folder .*{key} and run again"
    ):
        train(model, new_run())


def test_an_estimate_of_a_model_that_is_not_trained_is_an_error(new_run):
    """For whoever runs tasks by hand."""
    from robbench.stages import Task
    from robbench.stages.work import run_task

    with pytest.raises(RobbenchError, match=r"robustness: expected .*near-pgd\.training to be finished before"):
        run_task(Task("robustness", source(), ESTIMATE), new_run())
