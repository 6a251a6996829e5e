"""Workplaces with data of their own, and what was run in them."""

from __future__ import annotations

import sys
import types

import pytest
import torch
from stages import rigid, small, write_images

import robbench.stages.networks
import robbench.stages.pipeline
import robbench.stages.robustness
from robbench.stages.context import RunContext
from robbench.store.store import Store


@pytest.fixture(autouse=True)
def own_code(monkeypatch):
    """A module of a user's with the two networks, and no dataset remembered from an earlier test."""
    module = types.ModuleType("own_networks")
    module.small, module.rigid = small, rigid
    monkeypatch.setitem(sys.modules, "own_networks", module)
    robbench.data.loading.load_data.cache_clear()
    yield
    robbench.data.loading.load_data.cache_clear()


@pytest.fixture
def place(tmp_path):
    """A function that makes the context of a new session: two datasets on disk, and a store that all of them share."""
    write_images(tmp_path / "data", "near", classes=3, seed=1)
    write_images(tmp_path / "data", "far", classes=4, seed=2)
    sessions = iter(range(1000))

    def make(**options):
        store = Store(
            options.pop("folder", tmp_path / "store"),
            run=options.pop("run", f"run {next(sessions)}"),
            code=options.pop("code", ""),
        )
        return RunContext(store=store, data=tmp_path / "data", device=torch.device("cpu"), **options)

    return make


@pytest.fixture
def ran(monkeypatch):
    """What was really run, in order: ``train`` or ``estimate``."""
    calls = []

    def spy_on(module, function, name):
        original = getattr(module, function)

        def spy(*arguments, **options):
            calls.append(name)
            return original(*arguments, **options)

        monkeypatch.setattr(module, function, spy)

    spy_on(robbench.stages.pipeline, "Trainer", "train")
    spy_on(robbench.stages.robustness, "estimate_pstar", "estimate")
    return calls
