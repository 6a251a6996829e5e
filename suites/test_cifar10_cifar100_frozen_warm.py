"""Does freezing or warm-starting explain the gain of adversarial retraining? A small residual network, CIFAR-10 to CIFAR-100.

The study meant to freeze the first blocks in adversarial retraining, and retrained the whole network from the source's
weights (docs/study.md). Here both are run side by side, in a network and with a radius that two cores can train:
wide ResNet-10-2, ε 4/255, bfloat16. Runs on request only: ``pytest -m suite suites/test_cifar10_cifar100_frozen_warm.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import PGD, Dataset, OneCycle, Recipe, Study, Transfers, recipes

STANDARD = Recipe(
    optimiser="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    batch_size=128,
    epochs=8,
    schedule=OneCycle(),
    precision="bf16",
    kept_epoch="last",
)
ADVERSARIAL = replace(STANDARD, epochs=12, attack=PGD(epsilon=4 / 255, step_size=5 / 255, steps=1), ramp_epochs=2)
SMALLER = {"batch_size": 64, "learning_rate": 0.05}  # more steps, since the target has few images
RETRAINING = replace(ADVERSARIAL, epochs=8, ramp_epochs=1, **SMALLER)

STUDY = Study(
    name="cifar10-cifar100-frozen-warm",
    source=Dataset(name="cifar10", train=20_000, validation=0.05),
    target=Dataset(name="cifar100", validation=0.05),
    architectures=("wrn10_2",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=replace(STANDARD, epochs=12, **SMALLER)),
        Transfers(recipe=RETRAINING, k=(1, 2, 3)),
        Transfers(recipe=RETRAINING, k=(1, 2, 3), kept="warm"),
    ),
    estimate=replace(recipes.CIFAR_ESTIMATE, images=1_000),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
