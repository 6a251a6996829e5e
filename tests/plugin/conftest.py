"""A study of five tiny networks, run by a pytest within the tests."""

from __future__ import annotations

import json
import re
import shutil

import distributed  # noqa: F401  before any inner run: its importlib_metadata changes for good how plugins are found
import pytest

# Imported before any inner run: pytester forgets the modules that a run imports, and torch cannot be imported twice.
import torch._dynamo  # noqa: F401  by the first optimiser

import robbench.report.bundle
import robbench.stages.robustness_stage
import robbench.stages.training_stage
import robbench.store.files

NETWORK = """
from collections import OrderedDict

from torch import nn


def mlp(classes, shape):
    layers = {"flat": nn.Flatten(), "fc1": nn.Linear(784, 32), "relu": nn.ReLU(), "fc2": nn.Linear(32, classes)}
    return nn.Sequential(OrderedDict(layers))
"""

SUITE = """
import pytest

from robbench import PGD, Dataset, EpsilonGrid, Estimate, Quick, Recipe, Study, Transfers

STANDARD = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0, batch_size=8, epochs=2)
ADVERSARIAL = Recipe(
    optimiser="adam", learning_rate=0.01, weight_decay=0, batch_size=8, epochs=2, attack=PGD(epsilon=0.05, steps=2)
)
STUDY = Study(
    name="tiny",
    source=Dataset(name="glyphs10", train=100, test=20),
    target=Dataset(name="glyphs47", train=100, test=60),
    architectures=("net:mlp",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(Transfers(recipe=STANDARD, k=(1,)),),
    estimate=Estimate(grid=EpsilonGrid(stop=1.0, step=0.05), attack=PGD(steps=2, random_start=False), images=60),
    quick=Quick(train=30, test=10, images=8),
)

pytestmark = pytest.mark.suite(STUDY, seconds=1000)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
"""

WORKERS = """
import sys
import types

stub = types.ModuleType("torch._dynamo")  # the first optimiser imports it for seconds, and none uses it
stub.disable = lambda function, *rest, **options: function
stub.graph_break = lambda: None
sys.modules["torch._dynamo"] = stub

import robbench.report.bundle

robbench.report.bundle.draw = lambda group: []
"""
"""A conftest.py for runs in other processes, without what takes seconds."""

CASES = (
    "net.mlp-glyphs10-standard",
    "net.mlp-glyphs47-standard",
    "net.mlp-glyphs10-pgd",
    "net.mlp-glyphs47-pgd",
    "net.mlp-glyphs47-TL1",
)
ONE = ("-k", "glyphs10-standard")


@pytest.fixture(autouse=True)
def _fast(pytester, monkeypatch):
    """Leave out what takes time in each run and has tests of its own or no part in these; one thread in workers, too."""
    # After pytester, which clears the environment's options.
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    monkeypatch.setattr(robbench.store.files.os, "fsync", lambda handle: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    # Without this, pytest-benchmark switches itself off in the runs within a run when the tests themselves are under xdist.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")


@pytest.fixture
def quick_workers(pytester):
    """Let workers of pytest-xdist leave out what takes seconds."""
    pytester.makeconftest(WORKERS)


@pytest.fixture
def cases():
    """Ids of the tiny study's models."""
    return CASES


@pytest.fixture
def write_suite(pytester):
    """Write the tiny suite as a test file, with parts of its text replaced."""

    def write(*changes, name="test_tiny", text=SUITE):
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        pytester.makepyfile(**{name: text, "net": NETWORK})

    return write


@pytest.fixture
def tiny(pytester, write_suite):
    """Run pytest with some options on the tiny suite, in this process."""
    write_suite()
    return pytester.runpytest_inprocess


@pytest.fixture
def one(tiny):
    """The same for one of its models only: two items."""
    return lambda *options: tiny(*ONE, *options)


@pytest.fixture(scope="session")
def _updated_folder(tmp_path_factory):
    """Baselines and store of one update, made by the first test that wants them."""
    return tmp_path_factory.mktemp("updated") / "run"


@pytest.fixture
def updated(one, pytester, _updated_folder):
    """The same as ``one``, after a run with ``--robbench-update``."""
    if _updated_folder.exists():
        shutil.copytree(_updated_folder, pytester.path, dirs_exist_ok=True)
    else:
        one("--robbench-update").assert_outcomes(passed=2, deselected=8)
        for name in ("baselines", ".robbench"):
            shutil.copytree(pytester.path / name, _updated_folder / name)
    return one


@pytest.fixture
def stages(monkeypatch):
    """What was really computed: ``case.stage`` of every stage that ran, in order."""
    ran = []
    for module, function in (
        (robbench.stages.training_stage, "train_model"),
        (robbench.stages.robustness_stage, "estimate_model"),
    ):
        run = getattr(module, function)

        def counted(work, run=run):
            ran.append(work.task.name)
            return run(work)

        monkeypatch.setattr(module, function, counted)
    return ran


@pytest.fixture
def doctor(pytester):
    """Change the baseline of a stage of ``glyphs10-standard``."""

    def change(stage, edit):
        path = pytester.path / "baselines" / "tiny" / f"net.mlp-glyphs10-standard.{stage}.json"
        values = json.loads(path.read_text())
        edit(values)
        path.write_text(json.dumps(values))
        return path

    return change


@pytest.fixture
def errors():
    """Everything a run said, once it is sure that none of it is a traceback."""

    def read(result):
        text = result.stdout.str() + result.stderr.str()
        assert "Traceback" not in text
        assert "INTERNALERROR" not in text
        assert not re.search(r"robbench/(\w+/)*\w+\.py:\d+", text)
        return text

    return read
