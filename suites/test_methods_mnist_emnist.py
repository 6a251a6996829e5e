"""Which way to retrain, from MNIST to EMNIST: the methods of ``suites/test_methods.py`` from one robust source.

Data, source and estimate are those of ``suites/test_mnist_emnist_small.py``.

Budget: a retraining passes each image 24 times forward and back. Adversarial retraining has three epochs of eight passes:
seven steps of the attack and the update, or six steps and the two passes of an update that needs two (TRADES looks once
more, forward). Conventional retraining has 24 epochs. ARD and RSLAD imitate the target's network trained from scratch by
PGD, DARD one trained by Dice-PGD: teachers cost nine such epochs and are not counted. Runs on request only:
``pytest -m suite suites/test_methods_mnist_emnist.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import (
    ARD,
    DARD,
    MART,
    RSLAD,
    TRADES,
    DicePGD,
    FromScratch,
    Model,
    Study,
    Transfers,
)
from suites import test_mnist_emnist_small as last_blocks
from suites.test_mnist_emnist_small import ADVERSARIAL, ESTIMATE, STANDARD
from suites.ways import by_objective, conventional

SHORT = replace(ADVERSARIAL, epochs=3, ramp_epochs=1)
TWO_PASSES = replace(SHORT, attack=replace(SHORT.attack, steps=6))

TEACHER = Model(architecture="cnn7", dataset=last_blocks.STUDY.target, recipe=ADVERSARIAL)
DICE_TEACHER = replace(TEACHER, recipe=replace(ADVERSARIAL, objective=DicePGD()))

STUDY = Study(
    name="methods-mnist-emnist",
    source=last_blocks.STUDY.source,
    target=last_blocks.STUDY.target,
    architectures=("cnn7",),
    standard=STANDARD,
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
        *conventional(replace(STANDARD, epochs=24), 3),
    ),
    estimate=ESTIMATE,
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
