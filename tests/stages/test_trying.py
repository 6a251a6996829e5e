"""Everything that a model needs is tried before its first stage, and what was found stands in its record."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from stages import estimate, source, target, train, write_images
from torch import nn

from robbench.errors import RobbenchError
from robbench.spec import Checkpoint, Dataset, Model
from robbench.stages.checks import check


@pytest.fixture
def own(monkeypatch):
    """Let a function be the user's own network; its name as an architecture."""

    def add(function):
        monkeypatch.setattr(sys.modules["own_networks"], "mine", function, raising=False)
        return "own_networks:mine"

    return add


def plain(classes, shape):
    """A convolution and a linear layer for images of any size."""
    layers = nn.Conv2d(shape[0], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, classes)
    return nn.Sequential(*layers)


class AnyChannels(nn.Module):
    """Makes grey of its images and then as many channels as it was built for."""

    def __init__(self, classes, shape):
        super().__init__()
        self.channels = shape[0]
        self.model = plain(classes, shape)

    def forward(self, images):
        """(N, C, H, W) of any C -> (N, classes)."""
        return self.model(images.mean(dim=1, keepdim=True).expand(-1, self.channels, -1, -1))


@pytest.fixture
def colour(new_run):
    """The context of a run, and a model on colour images whose statistics are known."""
    context = new_run()
    write_images(context.data, "colour", channels=3)
    dataset = Dataset(name="colour", mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    return context, lambda architecture: replace(source(architecture=architecture), dataset=dataset)


def test_grey_images_are_seen_in_three_channels_by_a_network_for_colour(own, colour):
    """In training, and when it is read back."""
    context, model = colour
    assert len(estimate(target(of=model(own(plain))), context).robustness.pstar) == 20


def test_colour_for_a_network_of_grey_images_is_found_before_training(own, colour, made):
    """The other way round is not."""
    context, model = colour
    grey = source(architecture=own(plain))
    with pytest.raises(RobbenchError, match=r"TL1: expected images that .* takes, 1x8x8, got 3x8x8; make them grey"):
        train(replace(target(of=grey), dataset=model(grey.architecture).dataset), context)
    assert made == []


def test_a_network_that_takes_other_channels_is_read_back_as_it_was_built(own, colour):
    """Its weights are those of the source's layout, three channels, on grey images, too."""
    context, model = colour
    transferred = target(of=model(own(AnyChannels)))
    assert len(estimate(transferred, context).robustness.pstar) == 20
    again = target(of=transferred, dataset="near")
    assert len(estimate(again, context).robustness.pstar) == 20


def test_probabilities_are_found_before_training(own, new_run, made):
    """And logits in one mode only."""
    with pytest.raises(RobbenchError, match=r"near-pgd: own_networks:mine: expected logits, got values from 0 to"):
        train(
            source(architecture=own(lambda classes, shape: nn.Sequential(*plain(classes, shape), nn.Sigmoid()))),
            new_run(),
        )
    assert made == []


def test_an_unseen_edge_stands_in_the_record_and_is_told_once(own, new_run):
    """36 of 64 pixels."""
    told = []
    architecture = own(
        lambda classes, shape: nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.Flatten(), nn.Linear(16, classes))
    )
    record = train(source(architecture=architecture), new_run(announce=told.append))
    said = "own_networks:mine sees 36 of the 64 pixels of 8x8 images: the others have no gradient"
    assert (record.notes, told) == ([said], [said])


@pytest.mark.parametrize("layer", [0, 4])
def test_weights_that_no_seed_draws_are_refused_or_remarked(own, new_run, made, layer, tmp_path):
    """With 51 of 91 weights of a linear layer the network counts as pretrained, with 40 of a convolution it is remarked."""

    def pretrained(classes, shape):
        network = plain(classes, shape)
        with torch.no_grad():
            for parameter in network[layer].parameters():
                parameter.copy_(torch.linspace(-1, 1, parameter.numel()).view_as(parameter))
        return network

    model, context = source(architecture=own(pretrained)), new_run()
    if layer == 0:
        assert train(model, context).notes == ["44% of the weights of own_networks:mine are the same under every seed"]
        return
    with pytest.raises(RobbenchError, match="expected own_networks:mine to draw its weights anew, but 56% of them"):
        train(model, context)
    assert made == []
    from safetensors.torch import save_file

    save_file(pretrained(3, (1, 8, 8)).state_dict(), tmp_path / "mine.safetensors")
    checkpoint = Checkpoint(path=str(tmp_path / "mine.safetensors"), mean=0, std=1)
    check(Model(architecture=model.architecture, dataset=model.dataset, checkpoint=checkpoint), context)


def test_too_few_images_for_two_parts_are_found_before_training(new_run, made):
    """One cannot be trained and validated on."""
    with pytest.raises(
        RobbenchError, match="dataset 'far' validation: expected a share that leaves both parts of 1 images"
    ):
        train(replace(target(), dataset=Dataset(name="far", train=1)), new_run())
    assert made == []


NETWORK = """
from torch import nn

def make(classes, shape):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, {features}), nn.ReLU(), nn.Linear({features}, classes))
"""


def test_a_network_edited_during_a_run_is_the_old_one_under_the_old_digest(new_run, made, tmp_path, monkeypatch):
    """Which is named in the record and told once; where Python starts anew, the edit is another model."""
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "edited_networks.py"
    file.write_text(NETWORK.format(features=8))
    model, told = source(architecture="edited_networks:make"), []

    def edit(what, done, total, *_):
        file.write_text(NETWORK.format(features=16))

    first = train(model, new_run(show=edit))
    said = "edited_networks.py was edited after it had been imported: this is what it was before, start Python anew to "
    assert first.notes == [said + "use the edit"]
    context = new_run(announce=told.append)
    assert train(model, context).digest == first.digest
    assert made == ["training"]
    old = estimate(model, context)
    assert (told, old.notes) == (first.notes, first.notes)
    del sys.modules["edited_networks"]
    second = train(model, new_run())
    assert (first.model.parameters, second.model.parameters, second.notes) == (547, 1091, [])
    assert second.digest != first.digest
    del sys.modules["edited_networks"]
