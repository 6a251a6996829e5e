"""Robustness transfer from MNIST to EMNIST, scaled down to one core: about a quarter of an hour a seed for each network.

Fewer images, a PGD-7 adversary with a ramped radius, a one-cycle schedule, bfloat16 training; p* with the published
oracle on the published grid, and the published final test. Runs on request only:
``pytest -m suite suites/test_mnist_emnist_small.py``.
"""

from dataclasses import replace

import pytest

from robbench import PGD, Dataset, OneCycle, Recipe, Study, Transfers, recipes

STANDARD = Recipe(
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=1e-4,
    batch_size=128,
    epochs=6,
    schedule=OneCycle(),
    precision="bf16",
    kept_epoch="last",
)
ADVERSARIAL = replace(STANDARD, epochs=9, attack=PGD(epsilon=0.3, step_size=0.075, steps=7), ramp_epochs=4)

STUDY = Study(
    name="mnist-emnist-small",
    source=Dataset(name="mnist", train=10_000, validation=0.1),
    target=Dataset(name="emnist", train=12_000, validation=0.1),
    architectures=("cnn7", "relu_4_1024"),
    standard=STANDARD,
    adversarial={"cnn7": ADVERSARIAL, "relu_4_1024": replace(ADVERSARIAL, epochs=45, ramp_epochs=15)},
    transfers=(
        Transfers(recipe=STANDARD),
        Transfers(recipe=replace(ADVERSARIAL, epochs=3, ramp_epochs=1), architectures=("cnn7",), k=(3, 5)),
    ),
    estimate=replace(recipes.MNIST_ESTIMATE, images=150),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
