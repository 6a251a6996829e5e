"""Robustness transfer from CIFAR-10 to CIFAR-100 with resnet18, scaled down to an hour or so of one core.

A few thousand images, a few epochs of a one-cycle schedule, an adversary of one step from a random start (Wong et al.
2020), bfloat16 training; p* on the published grid, with ten steps of PGD on a few test images. The networks are far from
trained out: what it shows is where robustness goes in a deep residual network when its blocks are retrained, not how
large it can be. Runs on request only: ``pytest -m suite suites/test_cifar10_cifar100_small.py``.
"""

from dataclasses import replace

import pytest

from robbench import PGD, Dataset, OneCycle, Recipe, Study, Transfers, recipes

STANDARD = Recipe(
    optimiser="sgd",
    learning_rate=0.05,
    weight_decay=5e-4,
    batch_size=64,
    epochs=6,
    schedule=OneCycle(),
    precision="bf16",
    kept_epoch="last",
)
ADVERSARIAL = replace(STANDARD, epochs=4, attack=PGD(epsilon=8 / 255, step_size=10 / 255, steps=1), ramp_epochs=1)
RETRAINING = replace(STANDARD, epochs=2)

STUDY = Study(
    name="cifar10-cifar100-small",
    source=Dataset(name="cifar10", train=6_000, validation=0.1),
    target=Dataset(name="cifar100", train=8_000, validation=0.1),
    architectures=("resnet18",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=RETRAINING),
        Transfers(recipe=replace(ADVERSARIAL, epochs=2, ramp_epochs=0), k=(3,)),
    ),
    estimate=replace(
        recipes.CIFAR_ESTIMATE,
        attack=PGD(steps=10, random_start=False),
        images=300,
        final_test=(
            PGD(epsilon=8 / 255, steps=1, random_start=False),
            PGD(epsilon=8 / 255, step_size=2 / 255, steps=10, random_start=False),
        ),
    ),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
