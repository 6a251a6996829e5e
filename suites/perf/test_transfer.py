"""Conventional retraining of the last k blocks: the frozen blocks' features computed once where that pays, and never."""

from dataclasses import replace

import pytest
import torch

import robbench.training.features
from robbench import Recipe
from robbench.attacks import evaluating
from robbench.data import Images
from robbench.machine.flops import forward_flops, update_flops
from robbench.machine.onednn import dense
from robbench.plugin.perf import Work
from robbench.training import TrainingData, train
from robbench.training.features import extract, frozen_part
from robbench.training.transfer import parameter_groups, transfer

pytestmark = pytest.mark.perf

RECIPE = Recipe(optimiser="adam", learning_rate=1e-3, weight_decay=1e-4, batch_size=256, epochs=5)


@pytest.mark.parametrize(
    ("architecture", "images", "k"),
    [*(("cnn7", 2_048, k) for k in range(1, 8)), *(("resnet18", 64, k) for k in range(1, 8))],
)
def test_retraining(architecture, images, k, perf, fresh, monkeypatch):
    source, pictures, labels = fresh(architecture, images)
    stored = Images((pictures * 255).to(torch.uint8), labels)
    few = stored.take(torch.arange(16, device=labels.device))
    recipe = replace(RECIPE, batch_size=min(256, images // 2))

    def retrain(share):
        monkeypatch.setattr(robbench.training.features, "MEMORY_SHARE", share)
        made = transfer(source, k=k, classes=10, seed=0)
        groups = parameter_groups(made, 1.0)
        train(made.network, recipe, TrainingData(stored, few), groups=groups, frozen=made.kept)

    extracted = []
    monkeypatch.setattr(robbench.training.features, "extract", lambda *given: extracted.append(1) or extract(*given))
    perf.compare(
        lambda: retrain(0.25),
        {"whole network in every epoch": lambda: retrain(0.0)},
        images=images * RECIPE.epochs,
        work=lambda: {"robbench": of_retraining(transfer(source, k=k, classes=10, seed=0), pictures, bool(extracted))},
        precision="tf32" if perf.device.type == "cuda" else "float32",
        rounds=3,
        group="transfer",
        case=f"{architecture}, TL#{k}, 5 epochs of {images:,} images",
    )
    assert bool(extracted) == (k < 6)  # the first convolution's features are not worth their size


def of_retraining(made, pictures, reused):
    """Passes, in the arithmetic of one through the whole network, and operations: for each image and epoch, and all."""
    images = len(pictures) * RECIPE.epochs
    with evaluating(made.network):
        whole = forward_flops(made.network, pictures[:1])
        if not reused:
            return Work(1.0, images * update_flops(made.network, pictures[:1]))
        frozen, learner = frozen_part(made.network, made.kept)
        with torch.no_grad():
            features = dense(frozen(pictures[:1]))
        once = forward_flops(frozen, pictures[:1]) / RECIPE.epochs
        return Work(
            (once + forward_flops(learner, features)) / whole, images * (once + update_flops(learner, features))
        )
