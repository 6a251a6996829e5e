"""Feature drift: how far the kept features of a source move, on target images."""

from __future__ import annotations

import pytest
import torch
from stages import source, target

from robbench.data import training_parts
from robbench.models import build
from robbench.spec import PGD, Drift
from robbench.stages import Task, run_graph
from robbench.stages.drift_stage import Kept

DRIFT = Drift(attack=PGD(epsilon=0.05, steps=4), images=9)


def test_the_features_are_what_the_last_blocks_get():
    """Of a network in layers: its layers up to the block."""
    network = build("cnn7", classes=10, shape=(1, 28, 28)).eval()
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(Kept(network, 7)(images), images.flatten(1))
    before_fc3 = Kept(network, 1)(images)
    assert torch.allclose(network.head_layers[0](before_fc3), network(images))


def test_drift_is_measured_on_the_target_before_the_transfer_is_retrained(new_run):
    """Where nothing is kept the features are pixels, which each move by epsilon; the source alone was trained."""
    context, drifts = new_run(), []
    for k in (1, 4):
        records = run_graph([task := Task("drift", target(k), DRIFT)], context)
        assert [done.kind for done in records] == ["training", "drift"]
        drifts.append(records[task].result)
    validation = training_parts(target().dataset, context.images(target().dataset), context.device)[1]
    pixels = validation.take(torch.arange(9)).images.flatten(1) / 255
    apart = (pixels - pixels.mean(dim=0)).norm(dim=1).mean().item()
    assert [found.images for found in drifts] == [9, 9]
    assert drifts[1].drift <= 0.05 * pixels.shape[1] ** 0.5 / apart * (1 + 1e-6)
    assert drifts[1].drift == pytest.approx(0.05 * pixels.shape[1] ** 0.5 / apart, rel=0.1)
    assert records[task].model.source == source().dataset.name
    assert records[task].model.dataset == "far"
