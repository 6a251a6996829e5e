"""The network's frame: normalisation, logits, and the random states it leaves alone."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robbench.models import Network, Normalise, parameter_count, seeded


@given(st.lists(st.tuples(st.floats(-1, 1), st.floats(0.1, 2)), min_size=1, max_size=4))
def test_normalisation_is_the_formula_per_channel(statistics):
    """Every channel loses its mean and is divided by its std."""
    mean, std = zip(*statistics, strict=True)
    images = torch.rand(2, len(mean), 3, 3)
    expected = torch.stack([(images[:, c] - m) / s for c, (m, s) in enumerate(statistics)], dim=1)
    torch.testing.assert_close(Normalise(mean, std)(images), expected)


def test_no_statistics_are_the_identity():
    """Without mean and std the images pass as they are, and no tensor is stored."""
    images = torch.rand(2, 1, 3, 3)
    assert Normalise()(images) is images
    assert list(Normalise().buffers()) == []


def test_statistics_are_no_part_of_the_state():
    """Source and target have other statistics, so a state dict must not carry them."""
    layer = Normalise((0.5,), (0.25,))
    assert layer.state_dict() == {}
    assert [buffer.item() for buffer in layer.to(torch.float64).buffers()] == [0.5, 0.25]


def test_logits_are_those_of_the_normalised_images():
    """A linear body of weight 1 on a single pixel gives (pixel − mean) ÷ std."""
    body = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    nn.init.ones_(body[1].weight)
    network = Network(body, architecture="toy", shape=(1, 1, 1), head="1", normalise=Normalise((0.5,), (0.25,)))
    assert network(torch.ones(1, 1, 1, 1)).tolist() == [[2.0, 2.0]]
    assert (network.classes, parameter_count(network)) == (2, 2)


def test_seeded_begins_every_generator_and_leaves_it_alone():
    """Networks of one's own may draw from Python's, numpy's and torch's: the same from the same seed."""

    def drawn():
        return random.random(), np.random.rand(), torch.rand(()).item()

    with seeded(3):
        expected = drawn()
    with seeded(3):
        with seeded(5):
            inner = drawn()
        assert drawn() == expected != inner
    with seeded(5):
        assert drawn() == inner
