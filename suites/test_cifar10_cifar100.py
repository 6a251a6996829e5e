"""Robustness transfer from CIFAR-10 to CIFAR-100: tables B.5–B.9 and figures 6.3–6.5, 6.7–6.9, B.4–B.10 of the thesis.

Beside them, without a table: kept blocks that are fine-tuned at a hundredth of the rate (section 2.5), and, as a control,
transfers from a source that was never trained adversarially. Adversarial retraining freezes what is kept; the published
one retrained the whole network, as this study does under ``--robbench-protocol thesis``.
"""

import pytest

from robbench import Study, Transfers, recipes

STUDY = Study(
    name="cifar10-cifar100",
    source="cifar10",
    target="cifar100",
    architectures=("resnet18", "resnet34", "resnet50", "wrn28_10", "wrn34_10"),
    standard={
        "resnet18": recipes.CIFAR_STANDARD,
        "resnet34": recipes.CIFAR_STANDARD_EARLY,
        "resnet50": recipes.CIFAR_STANDARD_EARLY,
        "wrn28_10": recipes.CIFAR_STANDARD_EARLY,
        "wrn34_10": recipes.CIFAR_STANDARD_EARLY,
    },
    adversarial={
        "resnet18": recipes.CIFAR_PGD,
        "resnet34": recipes.CIFAR_PGD_EARLY,
        "resnet50": recipes.CIFAR_PGD_EARLY,
        "wrn28_10": recipes.CIFAR_PGD,
        "wrn34_10": recipes.CIFAR_PGD,
    },
    transfers=(
        Transfers(recipe=recipes.CIFAR_RETRAINING),
        Transfers(recipe=recipes.CIFAR_RETRAINING_PGD_RESNET34, architectures=("resnet34",)),
        Transfers(recipe=recipes.CIFAR_RETRAINING_PGD, architectures=("wrn34_10",)),
        Transfers(recipe=recipes.CIFAR_RETRAINING, architectures=("resnet34",), head="mlp1"),
        Transfers(recipe=recipes.CIFAR_RETRAINING, architectures=("resnet34",), head="mlp2"),
        Transfers(recipe=recipes.CIFAR_RETRAINING, architectures=("resnet34",), head="mlp3"),
        Transfers(recipe=recipes.CIFAR_RETRAINING, architectures=("resnet18",), k=(1, 3, 4, 5, 6), kept="finetuned"),
        Transfers(recipe=recipes.CIFAR_RETRAINING, architectures=("resnet18",), source="standard"),
    ),
    estimate=recipes.CIFAR_ESTIMATE,
    needs_cuda=True,
)

pytestmark = pytest.mark.suite(STUDY)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
