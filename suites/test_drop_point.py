"""Where to cut: the drop point predicted from the source alone, and the one found, for four networks on drawn characters.

Each network is trained adversarially on ten classes. Its last k blocks are retrained conventionally, for every k, on the
same ten classes and on 47 others. After Baumann (section 3.2 of the thesis), a polynomial fitted to the first predicts
the k after which median p* falls most for the second; so does the drift of the source's features under attack, without any
retraining. Runs on request only: ``pytest -m suite suites/test_drop_point.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import PGD, Dataset, Drift, EpsilonGrid, Estimate, OneCycle, Quick, Recipe, Study, Transfers

ADVERSARIAL = Recipe(
    optimiser="adam",
    learning_rate=2e-3,
    weight_decay=1e-4,
    batch_size=128,
    epochs=6,
    schedule=OneCycle(),
    attack=PGD(epsilon=0.2, step_size=0.06, steps=5),
    ramp_epochs=3,
    kept_epoch="last",
)
WEAKER = replace(ADVERSARIAL, epochs=7, attack=PGD(epsilon=0.1, step_size=0.03, steps=5))
STANDARD = replace(ADVERSARIAL, epochs=8, ramp_epochs=0, attack=None)

STUDY = Study(
    name="drop-point",
    source=Dataset(name="glyphs10", train=3_000, test=300, validation=0.1),
    target=Dataset(name="glyphs47", train=4_000, test=300, validation=0.1),
    architectures=("cnn7", "cnn4", "relu_4_1024", "wrn10_1"),
    adversarial=dict.fromkeys(("cnn7", "cnn4", "relu_4_1024"), ADVERSARIAL) | {"wrn10_1": WEAKER},
    transfers=(Transfers(recipe=STANDARD, data="source"), Transfers(recipe=STANDARD)),
    estimate=Estimate(grid=EpsilonGrid(stop=0.4, step=0.005), attack=PGD(steps=10, random_start=False), images=200),
    drift=Drift(attack=PGD(epsilon=0.2, step_size=0.05, steps=10)),
    quick=Quick(train=128, images=8),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, pstar=0.2, accuracy=0.07, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_drift(model, robbench):
    robbench.drift(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
