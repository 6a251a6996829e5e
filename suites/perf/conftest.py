"""The ``perf`` fixture, and networks and images: MNIST where the data folder has it, drawn digits otherwise."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
import torch

from robbench import PGD, Dataset, Model, OneCycle, Recipe
from robbench.data import pixels
from robbench.errors import RobbenchError
from robbench.machine.environment import environment
from robbench.models import build, place
from robbench.plugin.session import SESSION
from robbench.stages import Task, run_stage
from robbench.stages.networks import load_network
from suites.perf.measuring import Perf

STANDARD = Recipe(
    optimiser="adam", learning_rate=2e-3, weight_decay=1e-4, batch_size=128, epochs=3, schedule=OneCycle()
)
ADVERSARIAL = replace(
    STANDARD, epochs=6, attack=PGD(epsilon=0.3, step_size=0.075, steps=7), ramp_epochs=3, kept_epoch="last"
)


def pytest_benchmark_update_machine_info(config, machine_info):
    """In place of pytest-benchmark's own facts: device, driver and versions, as records have them."""
    with suppress(RobbenchError):  # there is no such device, as every test has said
        facts = environment(config.stash[SESSION].device)
        machine_info.clear()
        machine_info.update(msgspec.to_builtins(facts))


@pytest.fixture
def perf(request, benchmark):
    """Time a function beside its references: ``perf.compare(ours, {"Foolbox": theirs}, images=256)``."""
    return Perf(benchmark, request.config.stash[SESSION].context)


@pytest.fixture
def digits(perf):
    """The data set of the benchmarks, as a spec."""
    prepared = (perf.context.data / "mnist.npz").is_file()
    return Dataset(name="mnist" if prepared else "glyphs10", train=10_000, test=None if prepared else 1_024)


@pytest.fixture
def trained(perf, digits):
    """``trained("standard")`` or ``trained("pgd", "cnn4")``: a network (a cnn7) from the store, or trained first; and its test images."""

    def get(method, architecture="cnn7"):
        recipe = {"standard": STANDARD, "pgd": ADVERSARIAL}[method]
        model = Model(architecture=architecture, dataset=digits, recipe=recipe)
        record = run_stage(Task("training", model), perf.context)
        test = perf.context.images(digits).test
        network = load_network(model, perf.context, perf.context.store.finished(record.key))
        return network, pixels(test.images).to(perf.device), test.labels.to(perf.device)

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
