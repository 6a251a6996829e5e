"""What transfers of what can be proved: MNIST to EMNIST with a network small enough to certify, on two cores.

Sources trained conventionally, adversarially (Madry et al. 2018) and by interval bounds (Gowal et al. 2018); every k
retrained conventionally from each of them, adversarially from the last two, by interval bounds from the third. Runs on
request only: ``pytest -m suite suites/test_mnist_emnist_certified.py``.
"""

from dataclasses import replace

import pytest

from robbench import IBP, PGD, Bounds, Dataset, FromScratch, OneCycle, Recipe, Study, Transfers, Verifier, recipes

STANDARD = Recipe(
    optimiser="adam",
    learning_rate=1e-3,
    weight_decay=0.0,
    batch_size=128,
    epochs=3,
    schedule=OneCycle(),
    kept_epoch="last",
)
ADVERSARIAL = replace(STANDARD, epochs=5, attack=PGD(epsilon=0.2, step_size=0.05, steps=7), ramp_epochs=2)
SHORT = replace(ADVERSARIAL, epochs=3, ramp_epochs=1)
CERTIFIED = replace(STANDARD, epochs=6, objective=IBP(epsilon=0.2))

STUDY = Study(
    name="mnist-emnist-certified",
    source=Dataset(name="mnist", train=40_000, validation=0.05),
    target=Dataset(name="emnist", train=40_000, validation=0.05),
    architectures=("cnn_small",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    scratch=(FromScratch(recipe=CERTIFIED, data="source"), FromScratch(recipe=CERTIFIED)),
    transfers=(
        Transfers(recipe=STANDARD, source="standard"),
        Transfers(recipe=STANDARD),
        Transfers(recipe=STANDARD, source="ibp"),
        Transfers(recipe=SHORT),
        Transfers(recipe=SHORT, source="ibp"),
        Transfers(recipe=replace(CERTIFIED, epochs=3), source="ibp"),
    ),
    estimate=replace(recipes.MNIST_ESTIMATE, images=1_000),
    bounds=Bounds(images=500, verifier=Verifier(images=50, seconds=40, queries=1, models=("*-mnist-*",))),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)


def test_bounds(model, robbench):
    robbench.bound(model)
