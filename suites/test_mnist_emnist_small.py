"""Robustness transfer from MNIST to EMNIST, scaled down to two cores: every k, conventionally and adversarially retrained.

Fewer images, a PGD-7 adversary with a ramped radius, a one-cycle schedule, bfloat16 training; p* of 1,000 images on the
published grid, for some models by the published search, too, and the published final test. Runs on request only:
``pytest -m suite suites/test_mnist_emnist_small.py``.
"""

from dataclasses import replace

import pytest

from robbench import PGD, Also, Dataset, OneCycle, Recipe, Study, Transfers, recipes

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

ESTIMATE = replace(recipes.MNIST_ESTIMATE, images=1_000)

STUDY = Study(
    name="mnist-emnist-small",
    source=Dataset(name="mnist", train=10_000, validation=0.1),
    target=Dataset(name="emnist", train=12_000, validation=0.1),
    architectures=("cnn7",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=STANDARD),
        Transfers(recipe=replace(ADVERSARIAL, epochs=3, ramp_epochs=1)),
    ),
    estimate=ESTIMATE,
    also=(Also(estimate=replace(ESTIMATE, search="reference"), models=("*-pgd", "*-TL3", "*-TL3-adversarial")),),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)


def test_second_search(model, search, robbench):
    robbench.estimate(model, search)
