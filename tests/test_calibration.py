"""Timing a network on this machine."""

import torch

from robbench.calibration import measure


def test_every_kind_of_pass_takes_some_time():
    """An attack step and an update cost more than a forward pass; the network's size does not matter here."""
    speed = measure("cnn7", classes=10, shape=(1, 28, 28), precision="float32", device=torch.device("cpu"))
    assert 0 < speed.inference < speed.attack < 1
    assert speed.inference < speed.update < 1
