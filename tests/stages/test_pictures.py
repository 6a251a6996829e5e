"""Stages on folders of pictures: the same results wherever decoded pixels are, and what their records say."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import msgspec
import pytest
import torch
from photographs import write_folders
from stages import ADVERSARY, ESTIMATE, RECIPE, comparable, estimate, train

import robbench.data.loading
import robbench.data.pictures
from robbench.data import load_data
from robbench.errors import RobbenchError
from robbench.record import Seconds
from robbench.report import Bundle
from robbench.report.bundle import encode_bundle
from robbench.spec import Dataset, Model
from robbench.stages import Task
from robbench.stages.context import RunContext
from robbench.stages.work import waiting
from robbench.store import Store
from robbench.verify.verification import verify


@pytest.fixture
def pictures(tmp_path):
    """Fifty photographs, of one class more than of the others."""
    return write_folders(tmp_path / "pictures", {"red": 20, "green": 15, "blue": 10})


@pytest.fixture
def model(pictures):
    """Trained adversarially on resized crops of them."""
    dataset = Dataset(name="mine", folder=str(pictures), size=12)
    recipe = replace(RECIPE, attack=ADVERSARY, epochs=2, class_weights="balanced")
    return Model(architecture="own_networks:small", dataset=dataset, recipe=recipe)


@pytest.fixture
def run(tmp_path):
    """A function that makes the context of a run with a store of its own."""

    def make(store="store", **options):
        load_data.cache_clear()
        return RunContext(store=Store(tmp_path / store), data=tmp_path, device=torch.device("cpu"), **options)

    return make


def replace_notes(record):
    """Without what a record says of waiting."""
    return msgspec.structs.replace(record, notes=[])


def test_a_training_that_waits_for_its_images_says_so(model):
    """For more than a tenth of its time; not where it took less than a second."""
    for training, waited, notes in (
        (40.0, 12.0, ["own_networks.small-mine-pgd waited for its images for 12 of 40 s of training"]),
        (40.0, 4.0, []),
        (0.5, 0.4, []),
    ):
        stopwatch = SimpleNamespace(seconds=Seconds(training=training, waiting_for_data=waited))
        assert waiting(SimpleNamespace(stopwatch=stopwatch, task=Task("training", model))) == notes


def test_results_are_the_same_wherever_decoded_pixels_are(model, run, monkeypatch):
    """In memory, on disk, and decoded when taken: every figure and every weight; updates that wait are timed."""
    found = {}
    for form, (memory, disk) in {"memory": (1.0, 1.0), "disk": (0.0, 1.0), "nowhere": (0.0, 0.0)}.items():
        monkeypatch.setattr(robbench.data.pictures, "MEMORY_SHARE", memory)
        monkeypatch.setattr(robbench.data.loading, "MEMORY_SHARE", memory)
        monkeypatch.setattr(robbench.data.pictures, "DISK_SHARE", disk)
        context = run(form, announce=lambda text: None)
        trained, tested = train(model, context), estimate(model, context)
        weights = context.store.finished(trained.key).weights_sha256
        found[form] = (*(replace_notes(comparable(record)) for record in (trained, tested)), weights)
        assert (trained.seconds.waiting_for_data > 0) == (form != "memory")
        assert trained.seconds.waiting_for_data <= trained.seconds.training
    assert found["memory"] == found["disk"] == found["nowhere"]


def test_p_star_decodes_the_images_that_it_is_estimated_on(model, run, monkeypatch):
    """And no others, once all have been looked at: where pictures are decoded when they are taken."""
    monkeypatch.setattr(robbench.data.pictures, "MEMORY_SHARE", 0.0)
    monkeypatch.setattr(robbench.data.pictures, "DISK_SHARE", 0.0)
    train(model, run())
    names, look = [], robbench.data.pictures.look
    monkeypatch.setattr(robbench.data.pictures, "look", lambda *given: names.append(given[-1]) or look(*given))
    found = estimate(model, run(), replace(ESTIMATE, images=3)).robustness
    assert len(names) == len(found.images) == 3


def test_classes_are_told_apart(model, run):
    """The images of each class, how many are right, and their median p*; balanced accuracy is the mean over classes."""
    found = estimate(model, run()).robustness
    assert [(each.name, each.clean.total) for each in found.classes] == [("blue", 2), ("green", 3), ("red", 4)]
    assert sum(each.clean.correct for each in found.classes) == found.clean.correct
    shares = [each.clean.correct / each.clean.total for each in found.classes]
    assert found.figures()["balanced_accuracy"] == pytest.approx(sum(shares) / 3)
    assert found.imbalanced


def test_classes_of_one_size_are_recorded_as_such(model, run, tmp_path):
    """With each class, as those of different sizes are."""
    folder = write_folders(tmp_path / "even", {"red": 12, "green": 12, "blue": 12})
    found = estimate(replace(model, dataset=replace(model.dataset, folder=str(folder))), run()).robustness
    assert (len(found.classes), found.imbalanced) == (3, False)


def test_broken_pictures_stop_a_study_before_it_trains(model, pictures, run, made):
    """Skipped, the record says how many."""
    (pictures / "red" / "0.jpg").write_bytes(b"")
    with pytest.raises(RobbenchError, match="1 of 45 pictures cannot be used"):
        train(model, run())
    assert made == []
    skipping = replace(model, dataset=replace(model.dataset, skip_broken=True))
    assert train(skipping, run()).notes == ["mine: 1 of 45 pictures cannot be used and were left out"]


def test_pictures_elsewhere_are_verified(model, run, tmp_path):
    """The record says in which folder they were, which is no part of the digest."""
    context = run(keep_adversarials=True)
    records = [train(model, context), estimate(model, context, replace(ESTIMATE, audit=None))]
    assert replace(model, dataset=replace(model.dataset, folder=None)).digest == model.digest
    (tmp_path / "records.json").write_bytes(encode_bundle(Bundle(title="mine", command="", records=records)))
    findings = list(verify(tmp_path / "records.json", context, {"own_networks"}))
    assert {finding.mark for finding in findings} == {"agrees", "proven"}
