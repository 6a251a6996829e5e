"""Robustness transfer from MNIST to EMNIST: tables B.1–B.4 and figures 6.1, 6.2, 6.5, 6.6, B.1–B.3 of the thesis.

Beside them, without a table: the dropout network that section 5.1 names; kept blocks that are fine-tuned at a hundredth
of the rate (section 2.5); and, as a control, transfers from a source that was never trained adversarially.
"""

import pytest

from robbench import Study, Transfers, recipes

STUDY = Study(
    name="mnist-emnist",
    source="mnist",
    target="emnist",
    architectures=("cnn7", "cnn4", "cnn3", "relu_4_1024", "cnn_dropout"),
    standard=recipes.MNIST_STANDARD,
    adversarial=recipes.MNIST_PGD,
    transfers=(
        Transfers(recipe=recipes.MNIST_STANDARD),
        Transfers(recipe=recipes.MNIST_RETRAINING_PGD, architectures=("cnn7",)),
        Transfers(recipe=recipes.MNIST_STANDARD, architectures=("cnn7",), k=(1, 2, 3, 4, 5, 6), kept="finetuned"),
        Transfers(recipe=recipes.MNIST_STANDARD, architectures=("cnn7",), source="standard"),
    ),
    estimate=recipes.MNIST_ESTIMATE,
    needs_cuda=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
