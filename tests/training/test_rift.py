"""RiFT: criticality against a case worked out by hand, and which interpolation is kept."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from robbench.data import Images
from robbench.models import Block
from robbench.spec import PGD, Recipe
from robbench.training.rift import criticality, interpolate


@pytest.mark.parametrize("size", [0.0, 0.05, 0.1])
def test_the_criticality_of_a_linear_layer_is_as_by_hand(size):
    """The margin m of one image x falls by r √2 ‖x‖, r the ball's radius; the layer stays as it was."""
    torch.manual_seed(0)
    layer, image = nn.Linear(6, 2, bias=False).double(), torch.rand(1, 6, dtype=torch.float64)
    before = layer.weight.detach().clone()
    margin = ((before[0] - before[1]) @ image[0]).item()
    fall = size * before.norm().item() * math.sqrt(2) * image.norm().item()
    by_hand = math.log1p(math.exp(fall - margin)) - math.log1p(math.exp(-margin))
    assert criticality(layer, Block("fc", (layer,)), image, torch.tensor([0]), size=size) == pytest.approx(by_hand)
    assert torch.equal(layer.weight, before)


@pytest.mark.parametrize(("tuned", "share"), [(0.75, 1.0), (-1.0, 0.0)])
def test_the_most_accurate_weights_that_lose_no_robustness_are_kept(tuned, share):
    """Of a threshold on one pixel: one that suits clean and attacked images wins, one that suits neither does not."""

    class Threshold(nn.Module):
        def __init__(self):
            super().__init__()
            self.at = nn.Parameter(torch.tensor([0.0]))

        def forward(self, images):
            above = images.flatten(1) - self.at
            return torch.cat([-above, above], dim=1)

    values = torch.tensor([102, 255], dtype=torch.uint8).view(2, 1, 1, 1)
    network, images = Threshold(), Images(values, torch.tensor([0, 1]))
    recipe = Recipe(
        optimiser="sgd",
        learning_rate=0.1,
        weight_decay=0.0,
        batch_size=2,
        epochs=1,
        attack=PGD(epsilon=0.1, steps=1, random_start=False),
    )
    robust, tuned = ({"at": torch.tensor([value])} for value in (0.1, tuned))
    found, clean, safe = interpolate(network, robust, tuned, recipe, images, seed=0)
    assert (found > 0) == (share > 0)
    assert (clean.correct, safe.correct) == ((2, 2) if share else (1, 1))
    assert network.at.item() == pytest.approx(0.1 + found * (tuned["at"].item() - 0.1))
