"""A scheduler with three workers in this process."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from robbench.cluster.controller import Cluster
from robbench.machine import precision
from robbench.spec import Dataset, EpsilonGrid, Estimate, Model, Recipe
from robbench.spec.training import PGD
from robbench.stages import Task
from robbench.stages.context import RunContext
from robbench.store import Store

MODEL = Model(
    architecture="relu_4_1024",
    dataset=Dataset(name="glyphs10", train=60, test=12),
    recipe=Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0.0, batch_size=32, epochs=2),
)
ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.3, step=0.02), attack=PGD(steps=2, random_start=False), images=6)


@pytest.fixture
def task():
    """A training."""
    return Task("training", MODEL)


@pytest.fixture
def estimated():
    """p* of its model."""
    return Task("robustness", MODEL, ESTIMATE)


@pytest.fixture(autouse=True)
def _switches_stay(monkeypatch):
    """Torch's switches are of the process: workers in threads would leave each other's behind, for all later tests."""
    for switch in ("_switch", "_switch_older"):
        monkeypatch.setattr(precision, switch, lambda allowed: lambda: None)


@pytest.fixture(scope="session")
def scheduler():
    """Its address."""
    from distributed import LocalCluster

    with LocalCluster(n_workers=3, threads_per_worker=1, processes=False, dashboard_address="127.0.0.1:0") as local:
        yield local.scheduler_address


@pytest.fixture
def context(tmp_path):
    """That of a controller."""
    return RunContext(store=Store(tmp_path / "store"), data=tmp_path, device=torch.device("cpu"), announce=[].append)


@pytest.fixture
def connect(scheduler, context, task):
    """Connect a controller to the scheduler, until the end of the test."""
    clusters = []

    def make(tasks=(task,), device="cpu"):
        cluster = Cluster(scheduler, 1, device, context=context, tasks=tasks, folders=())
        clusters.append(cluster)
        return cluster

    yield make
    for cluster in clusters:
        with closing(cluster):
            pass
