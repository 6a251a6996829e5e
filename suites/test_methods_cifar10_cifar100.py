"""Which way to retrain a small residual network, from CIFAR-10 to CIFAR-100: methods from one robust source.

Data, source and estimate are those of ``suites/test_cifar10_cifar100_frozen_warm.py``: wide ResNet-10-2, ε 4/255, one step
of the attack, bfloat16.

Budget: a retraining passes each image 16 times forward and back. Adversarial retraining has eight epochs of two passes,
or five of three where an update needs two (15 passes; TRADES looks five times more, forward). Dice-PGD moves no image in
its first step that is wrong already, so it takes three steps: four epochs, DARD three (15 passes). Conventional retraining
has 16 epochs. ARD and RSLAD imitate the target's network trained from scratch by PGD, DARD one trained by Dice-PGD:
teachers cost 24 passes and are not counted. TWINS needs batch norm, so it runs here only, and resets the head alone.
Runs on request only: ``pytest -m suite suites/test_methods_cifar10_cifar100.py``.
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
    TWINS,
    DicePGD,
    Model,
    Study,
    Transfers,
)
from suites import test_cifar10_cifar100_frozen_warm as frozen_warm
from suites.test_cifar10_cifar100_frozen_warm import ADVERSARIAL, RETRAINING, SMALLER, STANDARD
from suites.ways import by_objective, conventional

TWO_PASSES = replace(RETRAINING, epochs=5)
THREE_STEPS = PGD(epsilon=4 / 255, step_size=2 / 255, steps=3)

TEACHER = Model(architecture="wrn10_2", dataset=frozen_warm.STUDY.target, recipe=ADVERSARIAL)
DICE_TEACHER = replace(TEACHER, recipe=replace(ADVERSARIAL, epochs=6, attack=THREE_STEPS, objective=DicePGD()))

STUDY = Study(
    name="methods-cifar10-cifar100",
    source=frozen_warm.STUDY.source,
    target=frozen_warm.STUDY.target,
    architectures=("wrn10_2",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=RETRAINING, k=(2,)),
        Transfers(recipe=RETRAINING, k=(1, 2), kept="warm"),
        Transfers(recipe=RETRAINING, k=(1,), kept="lora"),
        Transfers(recipe=replace(TWO_PASSES, awp=0.005), k=(2,)),
        by_objective(TWO_PASSES, TRADES(), 2),
        by_objective(TWO_PASSES, MART(), 2),
        by_objective(replace(RETRAINING, epochs=4, attack=THREE_STEPS), DicePGD(), 2),
        by_objective(TWO_PASSES, ARD(), 2, TEACHER),
        by_objective(TWO_PASSES, RSLAD(), 2, TEACHER),
        by_objective(replace(RETRAINING, epochs=3, attack=THREE_STEPS), DARD(), 2, DICE_TEACHER),
        replace(by_objective(RETRAINING, TWINS(), 1), kept="warm"),
        *conventional(replace(STANDARD, epochs=16, **SMALLER), 2),
    ),
    estimate=frozen_warm.STUDY.estimate,
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
