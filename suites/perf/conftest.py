"""Networks and images for the benchmarks: MNIST where the data folder has it, drawn digits otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from robbench import PGD, Dataset, Model, OneCycle, Recipe
from robbench.data import pixels
from robbench.models import build, place
from robbench.stages.context import load_network
from robbench.stages.pipeline import run_training

STANDARD = Recipe(
    optimiser="adam", learning_rate=2e-3, weight_decay=1e-4, batch_size=128, epochs=3, schedule=OneCycle()
)
ADVERSARIAL = replace(
    STANDARD, epochs=6, attack=PGD(epsilon=0.3, step_size=0.075, steps=7), ramp_epochs=3, kept_epoch="last"
)


@pytest.fixture
def digits(perf):
    """The data set of the benchmarks, as a spec."""
    prepared = (perf.context.data / "mnist.npz").is_file()
    return Dataset(name="mnist" if prepared else "glyphs10", train=10_000, test=None if prepared else 1_024)


@pytest.fixture
def trained(perf, digits):
    """``trained("standard")`` or ``trained("pgd")``: a cnn7 from the store, or trained first; and its test images."""

    def get(method):
        recipe = {"standard": STANDARD, "pgd": ADVERSARIAL}[method]
        model = Model(architecture="cnn7", dataset=digits, recipe=recipe)
        run_training(model, perf.context, suite="perf", under_test=False)
        test = perf.context.images(digits).test
        return load_network(model, perf.context), pixels(test.images).to(perf.device), test.labels.to(perf.device)

    return get


@pytest.fixture
def fresh(perf):
    """``fresh("cnn7", 256)``: an untrained network in eval mode, random images and labels."""

    def get(architecture, count):
        shape = (1, 28, 28) if not architecture.startswith(("resnet", "wrn")) else (3, 32, 32)
        network = place(build(architecture, classes=10, shape=shape), perf.device).eval()
        generator = torch.Generator().manual_seed(0)
        images = torch.rand(count, *shape, generator=generator).to(perf.device)
        return network, images, torch.randint(10, (count,), generator=generator).to(perf.device)

    return get
