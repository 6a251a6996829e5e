"""Conventional retraining of the last k blocks, with the frozen blocks' features computed once and in every epoch."""

from dataclasses import replace

import pytest
import torch

import robbench.features
import robbench.training
from robbench import Recipe
from robbench.data import Images
from robbench.features import extract
from robbench.timing import Stopwatch
from robbench.training import train
from robbench.transfer import parameter_groups, transfer

pytestmark = pytest.mark.perf

RECIPE = Recipe(optimiser="adam", learning_rate=1e-3, weight_decay=1e-4, batch_size=256, epochs=5)


@pytest.mark.parametrize(
    ("architecture", "images", "k"),
    [*(("cnn7", 2_048, k) for k in range(1, 8)), *(("resnet18", 128, k) for k in range(1, 8))],
)
def test_retraining(architecture, images, k, perf, fresh, monkeypatch):
    source, pictures, labels = fresh(architecture, images)
    stored = Images((pictures * 255).to(torch.uint8), labels)
    few = stored.take(torch.arange(64, device=labels.device))
    recipe = replace(RECIPE, batch_size=min(256, images // 2))

    def retrain(share):
        monkeypatch.setattr(robbench.features, "MEMORY_SHARE", share)
        made = transfer(source, k=k, classes=10, seed=0)
        groups = parameter_groups(made, 1.0)
        train(made.network, recipe, stored, few, stopwatch=Stopwatch(perf.device), groups=groups, held=made.kept)

    extracted = []
    monkeypatch.setattr(robbench.training, "extract", lambda *given: extracted.append(1) or extract(*given))
    perf.compare(
        lambda: retrain(0.25),
        {"whole network in every epoch": lambda: retrain(0.0)},
        images=images * RECIPE.epochs,
        rounds=2,
        group="transfer",
        case=f"{architecture}, TL#{k}, 5 epochs of {images:,} images",
    )
    assert bool(extracted) == (k < 7)
