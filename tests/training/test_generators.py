"""What a network draws from global generators follows from the seed of its training."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from loops import ADVERSARY, finish, network, problem, recipe, run, same, timeless, trainer
from torch import nn

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
    """The bits are the same wherever the generators stood, in a resumed run too, and others for another seed."""
    results, saved = [], []
    for seed, state in ((1, 5), (1, 6), (2, 5)):
        random.seed(state)
        np.random.seed(state)
        torch.manual_seed(state)
        made = trainer(drawing(number), SPEC, validation=problem(60, 1), seed=seed)
        if state == 6:
            made.load_state_dict(saved[0])
        history = timeless(finish(made, saved).epochs)
        results.append((made.state_dict()["weights"], history))
    (first, history), (again, same_history), (other, _) = results
    assert same(first, again)
    assert history == same_history
    assert not same(first, other)


@GENERATORS
def test_what_a_network_draws_moves_no_generator(number):
    """Warm-up, training and validation leave every global generator where it stood."""
    with generators_at(1, CPU):
        expected = drawn()
    with generators_at(1, CPU):
        run(drawing(number), recipe(attack=ADVERSARY, epochs=1))
        assert drawn() == expected


def test_generators_come_back_after_an_error():
    """They begin at the same numbers for the same seed, and go on afterwards where they stood."""
    with generators_at(1, CPU):
        first = drawn()

    def fail(seed):
        with generators_at(seed, CPU):
            raise KeyError(drawn())

    with generators_at(1, CPU):
        with pytest.raises(KeyError) as failed:
            fail(2**63 - 1)
        with generators_at(2**63 - 1, CPU):
            assert drawn() == failed.value.args[0] != first
        assert drawn() == first
