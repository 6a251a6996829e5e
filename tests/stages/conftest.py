"""Contexts with data of their own, and what was made in them."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from stages import Room, narrow, rigid, small, write_images

import robbench.stages.robustness_stage
import robbench.stages.training_stage
from robbench.data import load_data
from robbench.stages.context import RunContext
from robbench.store import Store


@pytest.fixture(autouse=True)
def own_code(monkeypatch):
    """A module of a user's with the networks, memory enough, and no data set remembered from an earlier test."""
    module = types.ModuleType("own_networks")
    module.small, module.narrow, module.rigid = small, narrow, rigid
    monkeypatch.setitem(sys.modules, "own_networks", module)
    monkeypatch.setattr(Room, "update", 10**9)
    monkeypatch.setattr(Room, "judged", 10**9)
    load_data.cache_clear()
    yield
    load_data.cache_clear()


@pytest.fixture
def new_run(tmp_path):
    """A function that makes the context of a new run: two data sets on disk, and a store that all runs share."""
    write_images(tmp_path / "data", "near", classes=3, seed=1)
    write_images(tmp_path / "data", "far", classes=4, seed=2)

    def make(folder="store", **options):
        return RunContext(store=Store(tmp_path / folder), data=tmp_path / "data", device=torch.device("cpu"), **options)

    return make


@pytest.fixture
def made(monkeypatch):
    """The stages that were really made, in order."""
    names = []
    for module, function in (
        (robbench.stages.training_stage, "train_model"),
        (robbench.stages.robustness_stage, "estimate_model"),
    ):
        run = getattr(module, function)

        def spy(work, run=run):
            names.append(work.task.kind)
            return run(work)

        monkeypatch.setattr(module, function, spy)
    return names
