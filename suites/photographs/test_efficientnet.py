"""ImageNet weights and photographs of one's own: the last layer of EfficientNet-Lite0, and the p* that is left.

Runs on request only, after ``python -m suites.photographs.efficientnet``:
``pytest -m suite suites/photographs/test_efficientnet.py``.
"""

import math
from dataclasses import replace

import pytest

from robbench import Checkpoint, Dataset, Recipe, Study, Transfers, recipes

RETRAINING = Recipe(optimiser="adam", learning_rate=1e-2, weight_decay=0, batch_size=20, epochs=4, kept_epoch="last")

STUDY = Study(
    name="crops",
    target=Dataset(name="crops", folder=".robbench/data/crops", size=224),
    architectures=("suites.photographs.efficientnet:lite0",),
    source_checkpoint=Checkpoint(".robbench/data/efficientnet-lite0.pth", mean=127 / 255, std=128 / 255),
    transfers=(Transfers(recipe=RETRAINING, k=(1,)),),
    estimate=replace(recipes.CIFAR_ESTIMATE, images=20, audit=None),
    on_request=True,
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
