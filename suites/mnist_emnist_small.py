"""Robustness transfer from MNIST to EMNIST with ``cnn7``, scaled down until one CPU core manages it in an hour.

Fewer images, a PGD-10 adversary with a ramped radius, a one-cycle schedule, bfloat16 training; p* with the published
oracle on the published grid. Not collected unless named: ``pytest -m suite suites/mnist_emnist_small.py``.
"""

from dataclasses import replace

import pytest

from robbench import PGD, Dataset, OneCycle, Recipe, Study, Transfers, recipes

STANDARD = Recipe(
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=1e-4,
    batch_size=256,
    epochs=12,
    schedule=OneCycle(),
    precision="bf16",
)
ADVERSARIAL = replace(
    STANDARD, epochs=12, attack=PGD(epsilon=0.3, step_size=0.05, steps=10), ramp_epochs=5, checkpoint="last"
)

STUDY = Study(
    name="mnist-emnist-small",
    source=Dataset(name="mnist", train=20_000),
    target=Dataset(name="emnist", train=30_000),
    architectures=("cnn7",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=STANDARD),
        Transfers(recipe=replace(ADVERSARIAL, epochs=4, ramp_epochs=1), k=(3, 5)),
    ),
    estimate=replace(recipes.MNIST_ESTIMATE, images=500),
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
