"""Which way to retrain: objectives and treatments of the kept blocks, from one robust source, on drawn characters.

The last three blocks of one network retrained adversarially by PGD with the others frozen or warm, by adversarial weight
perturbation, TRADES, MART, Dice-PGD, and by distillation from two robust teachers of another architecture (ARD and RSLAD
from one trained by PGD, DARD from one trained by Dice-PGD); and conventionally: a new head with fine-tuning, with and
without LwF, the last three blocks with the others frozen or warm, and a new head with the least critical block (RiFT). A
new head with low-rank branches (LoRA) is retrained both ways. An epoch of adversarial retraining passes each image seven
times forward and back (steps of the attack and the update; TRADES looks once more), and conventional retraining has seven
times the epochs. Runs on request only: ``pytest -m suite suites/test_methods.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import (
    ARD,
    DARD,
    MART,
    PGD,
    RSLAD,
    TRADES,
    Dataset,
    DicePGD,
    EpsilonGrid,
    Estimate,
    FromScratch,
    Model,
    OneCycle,
    Quick,
    Recipe,
    Study,
    Transfers,
)
from suites.ways import by_objective, conventional

TARGET = Dataset(name="glyphs47", train=6_000, test=1_000, validation=0.1)

ADVERSARIAL = Recipe(
    optimiser="adam",
    learning_rate=2e-3,
    weight_decay=1e-4,
    batch_size=128,
    epochs=7,
    schedule=OneCycle(),
    attack=PGD(epsilon=0.2, step_size=0.06, steps=6),
    ramp_epochs=3,
    kept_epoch="last",
)
SHORT = replace(ADVERSARIAL, epochs=3, ramp_epochs=1)
TWO_PASSES = replace(SHORT, attack=replace(SHORT.attack, steps=5))
CONVENTIONAL = replace(SHORT, epochs=21, ramp_epochs=0, attack=None)

TEACHER = Model(architecture="cnn4", dataset=TARGET, recipe=ADVERSARIAL)
DICE_TEACHER = replace(TEACHER, recipe=replace(ADVERSARIAL, objective=DicePGD()))

STUDY = Study(
    name="methods",
    source=Dataset(name="glyphs10", train=4_000, test=500, validation=0.1),
    target=TARGET,
    architectures=("cnn7",),
    adversarial=ADVERSARIAL,
    scratch=(FromScratch(recipe=replace(ADVERSARIAL, objective=TRADES())),),
    transfers=(
        Transfers(recipe=SHORT, k=(3,)),
        Transfers(recipe=SHORT, k=(3,), kept="warm"),
        Transfers(recipe=SHORT, k=(1,), kept="lora"),
        Transfers(recipe=replace(TWO_PASSES, awp=0.005), k=(3,)),
        by_objective(TWO_PASSES, TRADES(), 3),
        by_objective(TWO_PASSES, MART(), 3),
        by_objective(SHORT, DicePGD(), 3),
        by_objective(TWO_PASSES, ARD(), 3, TEACHER),
        by_objective(TWO_PASSES, RSLAD(), 3, TEACHER),
        by_objective(TWO_PASSES, DARD(), 3, DICE_TEACHER),
        *conventional(CONVENTIONAL, 3),
    ),
    estimate=Estimate(grid=EpsilonGrid(stop=0.4, step=0.005), attack=PGD(steps=10, random_start=False), images=250),
    quick=Quick(train=128, images=8),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, pstar=0.2, accuracy=0.07, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
