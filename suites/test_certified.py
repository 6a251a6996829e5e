"""What can be proved of transferred networks: certified radii below p*, from drawn digits to drawn characters, in two minutes.

One small network (Wong and Kolter 2018), trained conventionally, adversarially (Madry et al. 2018) and to be certified by
interval bounds (Gowal et al. 2018); transferred conventionally from the last two, and once retrained by interval bounds.
Each is bounded from below by CROWN (Zhang et al. 2018).
"""

import math
from dataclasses import replace

import pytest

from robbench import IBP, PGD, Bounds, Dataset, EpsilonGrid, Estimate, FromScratch, OneCycle, Recipe, Study, Transfers

STANDARD = Recipe(
    optimiser="adam",
    learning_rate=2e-3,
    weight_decay=0.0,
    batch_size=64,
    epochs=6,
    schedule=OneCycle(),
    kept_epoch="last",
)
ADVERSARIAL = replace(STANDARD, epochs=8, attack=PGD(epsilon=0.15, step_size=0.05, steps=4), ramp_epochs=3)
CERTIFIED = replace(STANDARD, epochs=14, objective=IBP(epsilon=0.15))

STUDY = Study(
    name="certified",
    source=Dataset(name="glyphs10", train=2_500, test=400, validation=0.1),
    target=Dataset(name="glyphs47", train=3_500, test=400, validation=0.1),
    architectures=("cnn_small",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    scratch=(FromScratch(recipe=CERTIFIED, data="source"), FromScratch(recipe=CERTIFIED)),
    transfers=(
        Transfers(recipe=STANDARD, k=(1, 2, 3)),
        Transfers(recipe=STANDARD, k=(1, 2, 3), source="ibp"),
        Transfers(recipe=replace(CERTIFIED, epochs=8), k=(2,), source="ibp"),
    ),
    estimate=Estimate(grid=EpsilonGrid(stop=0.4, step=0.005), attack=PGD(steps=10, random_start=False), images=200),
    bounds=Bounds(images=40),
)

pytestmark = pytest.mark.suite(STUDY, pstar=0.2, accuracy=0.07, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)


def test_bounds(model, robbench):
    robbench.bound(model)
