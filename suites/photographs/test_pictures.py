"""A published checkpoint, and pictures of one's own: TL#1 to TL#3 of timm's ResNet-18 at 96 x 96 pixels.

Runs on request only, after ``python -m suites.photographs.prepare``:
``pytest -m suite suites/photographs/test_pictures.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import Checkpoint, Dataset, OneCycle, Recipe, Study, Transfers, recipes

RETRAINING = Recipe(
    optimiser="sgd",
    learning_rate=0.02,
    weight_decay=5e-4,
    batch_size=50,
    epochs=6,
    schedule=OneCycle(),
    precision="bf16",
    kept_epoch="last",
)

STUDY = Study(
    name="pictures",
    target=Dataset(name="pictures", folder=".robbench/data/pictures", size=96),
    architectures=("timm:resnet18",),
    source_checkpoint=Checkpoint(".robbench/data/robust.pt", mean=0, std=1),
    transfers=(Transfers(recipe=RETRAINING, k=(1, 2, 3)),),
    estimate=replace(recipes.CIFAR_ESTIMATE, images=100),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
