"""Checkpoints end to end: whose normalisation is in front of what, and images of other channels and sizes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stages import ESTIMATE, RECIPE, estimate, source, target, train, write_images

from robbench.data import load_data, pixels, training_parts
from robbench.errors import RobbenchError
from robbench.models import build, weights
from robbench.spec import Checkpoint, Dataset, Model
from robbench.stages.networks import load_network

PAIR = {"normalise.mean": torch.tensor([0.25]), "normalise.std": torch.tensor([0.5])}


def saved(tmp_path, extra=None, *, dataset="near", classes=3, channels=1, function="small", **options):
    """A model that is what torch.save wrote of a network for 8x8 images, with ``extra`` tensors beside it."""
    architecture = f"own_networks:{function}"
    network = build(architecture, classes=classes, shape=(channels, 8, 8), seed=5)
    torch.save(
        {"state_dict": {f"module.{key}": value for key, value in weights(network).items()}, **(extra or {})},
        path := tmp_path / "mine.pt",
    )
    return Model(architecture=architecture, dataset=Dataset(name=dataset), checkpoint=Checkpoint(path, **options))


def network_in_store(model, context):
    """The network that p* is estimated of."""
    return load_network(model, context, context.store.finished(train(model, context).key))


def test_a_checkpoint_sees_the_pixels_that_it_was_trained_on(new_run, tmp_path):
    """The file's mean and std are in front of it, in the record and of what is transferred from it."""
    context, mine = new_run(), saved(tmp_path, PAIR)
    record = train(mine, context)
    assert (record.model.mean, record.model.std) == ((0.25,), (0.5,))
    assert (
        "read from 'state_dict/module.' in the file; pixels are normalised by mean (0.25) and std (0.5)"
        in record.notes[0]
    )
    data = load_data(mine.dataset, context.data, download=False)
    _, validation = training_parts(mine.dataset, data, context.device)
    batch = validation.take(torch.arange(len(validation)))
    plain = build(mine.architecture, classes=3, shape=(1, 8, 8), seed=5).eval()
    with torch.no_grad():
        right = plain.body((pixels(batch.images) - 0.25) / 0.5).argmax(1) == batch.labels
        assert record.training.validation.correct == int(right.sum())
        images = pixels(batch.images)
        torch.testing.assert_close(network_in_store(mine, context)(images), plain.body((images - 0.25) / 0.5))
    after = target(1, of=mine)
    assert (train(after, context).model.mean, estimate(after, context).model.std) == ((0.25,), (0.5,))
    assert network_in_store(after, context).normalise.values == ((0.25,), (0.5,))


def test_a_data_sets_statistics_are_not_put_before_the_weights_of_a_checkpoint(new_run, tmp_path):
    """Weights of plain pixels stay so, and so do transfers from them; a transfer from a trained model takes its target's."""
    context, ours = new_run(), {"mean": (0.125,), "std": (0.25,)}
    mine = saved(tmp_path, mean=0, std=1)
    mine = replace(mine, dataset=replace(mine.dataset, **ours))
    after = target(1, of=mine)
    after = replace(after, dataset=replace(after.dataset, **ours))
    for model in (mine, after):
        assert network_in_store(model, context).normalise.values == ((0.0,), (1.0,))
    trained = replace(after, source=source())
    assert network_in_store(trained, context).normalise.values == ((0.125,), (0.25,))


def test_an_unknown_normalisation_is_asked_for_before_any_training(new_run, made, tmp_path):
    """By the check of a model that is transferred from it."""
    with pytest.raises(
        RobbenchError, match=r"own_networks.small-near-checkpoint: checkpoint .*expected the normalisation"
    ):
        train(target(1, of=saved(tmp_path)), new_run())
    assert made == []


def test_a_checkpoint_of_other_classes_is_refused_before_any_training(new_run, made, tmp_path):
    """The number that the images have, and the file's."""
    with pytest.raises(RobbenchError, match="expected a network of 3 classes, as the images have, got 9"):
        train(saved(tmp_path, classes=9, mean=0, std=1), new_run())
    assert made == []


@pytest.mark.parametrize("of", ["checkpoint", "checkpoint on grey images", "trained"])
def test_grey_images_may_follow_on_colour(new_run, tmp_path, of):
    """As three equal channels, of another size, too; p* is that of the grey pixels."""
    context = new_run()
    write_images(context.data, "colour", channels=3)
    write_images(context.data, "grey", classes=4, side=12)
    mine = saved(tmp_path, PAIR, dataset="near" if "grey" in of else "colour", channels=3)
    first = source("colour") if of == "trained" else mine
    model = target(2, of=first, dataset="grey")
    tested = estimate(model, context)
    assert len(tested.robustness.pstar) == ESTIMATE.images
    network = network_in_store(model, context)
    grey = torch.rand(2, 1, 12, 12)
    torch.testing.assert_close(network(grey), network(grey.expand(-1, 3, -1, -1)))
    before, after = (network_in_store(each, context) for each in (first, model))
    assert torch.equal(before.body[0].weight, after.body[0].weight)


@pytest.mark.parametrize(
    ("function", "shape", "message"),
    [
        ("small", {"channels": 3}, r"takes, 1x8x8, got 3x8x8; make them grey"),
        ("rigid", {"side": 12}, r"takes, 1x8x8, got 1x12x12; give them that size"),
    ],
)
def test_images_that_a_checkpoint_does_not_take_are_refused_before_any_training(
    new_run, made, tmp_path, function, shape, message
):
    """One sentence says what it takes, what came, and what to do."""
    context = new_run()
    write_images(context.data, "other", **shape)
    mine = saved(tmp_path, function=function, mean=0, std=1)
    with pytest.raises(RobbenchError, match=message):
        train(target(1, of=mine, dataset="other", recipe=RECIPE), context)
    assert made == []
