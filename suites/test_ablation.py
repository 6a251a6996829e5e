"""Which of the published code's departures from sound practice matters: one at a time, on drawn characters.

A wide residual network of width 1, small enough for one core, with the batch normalisation that two of the fields are
about, and a constant learning rate, so that it matters which epoch is kept. Everything is declared sound; each variant
follows the thesis in the field that its name ends in, and in nothing else. Left out are the fine-tuning rate (no block
is fine-tuned here), the epochs of MNIST's retraining, and what concerns p* alone and no training (``oracle_box``,
``grid``, ``random_start``). Runs on request only:
``pytest -m suite suites/test_ablation.py``; ``-k "box or not (…)"`` and the like run a part.
"""

from dataclasses import replace

import pytest

from robbench import PGD, Dataset, EpsilonGrid, Estimate, Recipe, Study, Transfers

STANDARD = Recipe(
    optimiser="adam",
    learning_rate=2e-3,
    weight_decay=1e-4,
    batch_size=64,
    epochs=5,
    clip_norm=1.0,
    precision="bf16",
)
ADVERSARIAL = replace(STANDARD, epochs=7, attack=PGD(epsilon=0.1, step_size=0.05, steps=3), ramp_epochs=2)

STUDY = Study(
    name="ablation",
    source=Dataset(name="glyphs10", train=3_000, test=500, validation=0.1),
    target=Dataset(name="glyphs47", train=4_500, test=500, validation=0.1),
    architectures=("wrn10_1",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(
        Transfers(recipe=STANDARD, k=(1, 2)),
        Transfers(recipe=replace(ADVERSARIAL, epochs=4, ramp_epochs=1), k=(2,)),
    ),
    estimate=Estimate(grid=EpsilonGrid(stop=0.3, step=0.005), attack=PGD(steps=10, random_start=False), images=250),
    on_request=True,
    ablate=("kept_statistics", "kept", "statistics", "orientation", "split", "kept_epoch", "box"),
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
