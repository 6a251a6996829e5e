"""Objectives beside the plain training that they change: LwF beside fine-tuning, TRADES beside PGD at equal passes."""

from dataclasses import replace

import pytest
import torch

from robbench import PGD, TRADES, LwF, Recipe
from robbench.data import Images
from robbench.training import TrainingData, train
from robbench.training.transfer import parameter_groups, transfer

pytestmark = pytest.mark.perf

RECIPE = Recipe(optimiser="adam", learning_rate=1e-3, weight_decay=1e-4, batch_size=128, epochs=5)
IMAGES = {"cnn7": 512, "resnet18": 32}


def data_of(architecture, fresh):
    """The network, its training data, and how many images they are."""
    network, pictures, labels = fresh(architecture, IMAGES[architecture])
    stored = Images((pictures * 255).to(torch.uint8), labels)
    return network, TrainingData(stored, stored.take(torch.arange(16, device=labels.device))), len(labels)


@pytest.mark.parametrize("head", ["linear", "mlp1"])
@pytest.mark.parametrize("architecture", IMAGES)
def test_without_forgetting(architecture, head, perf, fresh):
    """Every block learns in every epoch of both, in eval mode; LwF's time includes the source's features."""
    source, data, images = data_of(architecture, fresh)
    plain = replace(RECIPE, batch_size=min(128, images // 2))

    def retrain(recipe, **parents):
        made = transfer(source, k=1, classes=10, head=head, kept="finetuned", seed=0)
        train(made.network, recipe, data, groups=parameter_groups(made, 0.1), frozen=made.kept, parents=parents)

    rounds = perf.compare(
        lambda: retrain(replace(plain, objective=LwF(head_share=0.0)), source=source),
        {"fine-tuning": lambda: retrain(plain)},
        images=images * RECIPE.epochs,
        passes=1,
        precision="tf32" if perf.device.type == "cuda" else "float32",
        rounds=3,
        group="learning without forgetting",
        case=f"{architecture}, {head} head, {RECIPE.epochs} epochs of {images:,} images",
    )
    perf.target("of the speed of fine-tuning", rounds.ratio("fine-tuning"), 1 / 1.15)


@pytest.mark.parametrize("architecture", IMAGES)
def test_trades(architecture, perf, fresh):
    """Both pass an image as often forward and back; TRADES looks at it once more before its attack."""
    source, data, images = data_of(architecture, fresh)
    steps = 5 if architecture == "cnn7" else 2
    usual = replace(RECIPE, batch_size=min(128, images // 2), epochs=1, attack=PGD(epsilon=0.3, steps=steps + 1))
    trades = replace(usual, objective=TRADES(), attack=replace(usual.attack, steps=steps))

    def run(recipe):
        train(transfer(source, k=1, classes=10, kept="warm", seed=0).network, recipe, data)

    rounds = perf.compare(
        lambda: run(trades),
        {"PGD training": lambda: run(usual)},
        images=images,
        passes=steps + 2,
        precision="tf32" if perf.device.type == "cuda" else "float32",
        rounds=3,
        group="TRADES",
        case=f"{architecture}, {images:,} images, PGD-{steps} and two passes against PGD-{steps + 1} and one",
    )
    more = (2 * steps + 5) / (2 * steps + 4)  # passes, forward and back: the look before the attack is one
    perf.target("of the speed of PGD training at equal passes", more * rounds.ratio("PGD training"), 1 / 1.1)
