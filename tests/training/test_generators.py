"""What a network draws from global generators, and keeps in buffers, is the seed's business and nobody else's."""

from __future__ import annotations

import copy
import random

import numpy as np
import pytest
import torch
from loops import ADVERSARY, network, problem, recipe, run, same, timeless
from torch import nn

from robbench.errors import RobbenchError
from robbench.machine.generators import generators_at
from robbench.spec import PGD

CPU = torch.device("cpu")


def drawn():
    """A number of each global generator."""
    return random.random(), np.random.rand(), torch.rand(()).item()


class Drawing(nn.Module):
    """Scales images by a number from one of the generators."""

    def __init__(self, number):
        super().__init__()
        self.number = number

    def forward(self, images):
        """Of the shape of the images."""
        return images * (1 + 0.5 * drawn()[self.number])


def drawing(number, seed=0):
    """A network that draws in training and in validation."""
    return nn.Sequential(Drawing(number), *network(seed))


GENERATORS = pytest.mark.parametrize("number", [0, 1, 2], ids=["random", "numpy", "torch"])
SPEC = recipe(attack=PGD(epsilon=0.1, steps=1), epochs=3)


@GENERATORS
def test_the_seed_alone_decides_what_a_network_draws(number):
    """Weights and history, validation included, are the same wherever the generators stood, and others for another seed."""
    results = []
    for seed, state in ((1, 5), (1, 6), (2, 5)):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        model = drawing(number)
        history = timeless(run(model, SPEC, validation=problem(60, 1), seed=seed).history)
        results.append((model.state_dict(), history))
    (first, history), (again, same_history), (other, _) = results
    assert same(first, again)
    assert history == same_history
    assert not same(first, other)


@GENERATORS
def test_an_interrupted_run_of_a_network_that_draws_goes_on_bit_for_bit(number):
    """After the first epoch, with the generators anywhere."""
    states = []
    whole = drawing(number)
    expected = run(whole, SPEC, seed=3, on_epoch=lambda state: states.append(copy.deepcopy(state)))
    drawn()
    model = drawing(number, seed=77)
    resumed = run(model, SPEC, seed=3, progress=states[0])
    assert same(model.state_dict(), whole.state_dict())
    assert timeless(resumed.history) == timeless(expected.history)


@GENERATORS
def test_what_a_network_draws_moves_no_generator(number):
    """Not in the warm-up, in training or in validation: whoever draws next gets what they would have got."""
    with generators_at(1, CPU):
        expected = drawn()
    with generators_at(1, CPU):
        run(drawing(number), recipe(attack=ADVERSARY, epochs=1))
        assert drawn() == expected


def test_generators_come_back_after_an_error():
    """And begin at the same numbers for the same seed, however large."""
    with generators_at(1, CPU):
        first = drawn()

    def fail(seed):
        with generators_at(seed, CPU):
            raise KeyError(drawn())

    for seed in (2, 2**63 - 1):
        with generators_at(1, CPU):
            with pytest.raises(KeyError) as failed:
                fail(seed)
            with generators_at(seed, CPU):
                assert drawn() == failed.value.args[0] != first
            assert drawn() == first


class Buffered(nn.Module):
    """Scales images by a buffer, which ``change`` replaces in every pass in training mode."""

    def __init__(self, value, change, persistent):
        super().__init__()
        self.change = change
        self.register_buffer("scale", value, persistent=persistent)

    def forward(self, images):
        """Of the shape of the images."""
        if self.training:
            self.scale = self.change(self.scale)
        return images if self.scale is None else images * self.scale.nan_to_num(1.0)


def buffered(value, change, persistent=False):
    """A network with such a buffer in front."""
    return nn.Sequential(Buffered(value, change, persistent), *network())


@pytest.mark.parametrize(
    ("value", "change"),
    [
        (torch.ones(()), lambda scale: scale + 0.125),
        (torch.ones(()), lambda scale: scale.add_(0.125)),
        (torch.zeros(2, 1), lambda scale: scale[:1]),
        (None, lambda scale: torch.ones(())),
    ],
    ids=["another", "in place", "another shape", "filled"],
)
def test_a_buffer_that_changes_and_is_not_stored_is_an_error_of_its_epoch(value, change):
    """P* would be that of another network, and so would a resumed training: no checkpoint is made."""
    saved = []
    with pytest.raises(
        RobbenchError, match=r"^buffer '0\.scale' changed in epoch 1, but is not stored with the weights"
    ):
        run(buffered(value, change), recipe(), on_epoch=saved.append)
    assert saved == []


@pytest.mark.parametrize(
    ("model", "stored"),
    [
        (buffered(torch.ones(()), lambda scale: scale), False),
        (buffered(torch.tensor(float("nan")), lambda scale: scale.clone()), False),
        (buffered(torch.ones(()), lambda scale: scale + 0.125, persistent=True), True),
    ],
    ids=["constant", "nan", "persistent"],
)
def test_buffers_that_stay_or_are_stored_are_trained_with(model, stored):
    """A constant needs no place among the weights, and what has one may change; the weights are the state dict."""
    progress = run(model, recipe())
    assert ("0.scale" in progress.weights) is stored
    assert progress.weights.keys() == model.state_dict().keys()
