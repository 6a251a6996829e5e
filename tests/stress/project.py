"""What the kill test and the crowd test run: a small project, the processes that run it, and what is compared of them.

Processes are forked, since importing torch takes longer than the whole suite: a caller imports what ``pytest`` needs, and
computes nothing itself.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import torch._dynamo  # by the first optimiser

import robbench
from robbench.data import load
from robbench.data.prepared import write_npz
from robbench.report import read_bundle
from robbench.spec import Dataset

ROOT = Path(robbench.__file__).resolve().parents[1]

NETWORK = """
from torch import nn


def small(classes, shape):
    return nn.Sequential(
        nn.Conv2d(1, 8, 5, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.1), nn.Flatten(),
        nn.Linear(8 * 144, 64), nn.ReLU(), nn.Linear(64, classes),
    )
"""

SUITE = """
import math

import pytest

from robbench import PGD, Dataset, EarlyStopping, EpsilonGrid, Estimate, OneCycle, Recipe, Study, Transfers

STANDARD = Recipe(
    optimiser="adam", learning_rate=0.003, weight_decay=0, batch_size=50, epochs={epochs},
    early_stopping=EarlyStopping(patience=1),
)
ADVERSARIAL = Recipe(
    optimiser="sgd", momentum=0.9, learning_rate=0.1, weight_decay=1e-4, batch_size=50, epochs={epochs},
    schedule=OneCycle(), attack=PGD(epsilon=0.05, steps=3),
)
STUDY = Study(
    name="{search}",
    source=Dataset(name="digits"),
    target=Dataset(name="letters"),
    architectures=("{network}",),
    standard=STANDARD,
    adversarial=ADVERSARIAL,
    transfers=(Transfers(recipe=STANDARD, k=(1,)), Transfers(recipe=ADVERSARIAL, k=(2,))),
    estimate=Estimate(
        grid=EpsilonGrid(stop=0.5, step=0.005), attack=PGD(steps={steps}, random_start=False), images={attacked},
        search="{search}", final_test=(PGD(epsilon=0.1, steps={steps}, random_start=False),),
    ),
)

pytestmark = pytest.mark.suite(STUDY, seconds=math.inf)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
"""

CONFTEST = """
import sys
import types

if "torch" not in sys.modules:  # in a worker of pytest-xdist: the first optimiser imports for seconds what none uses
    stub = types.ModuleType("torch._dynamo")
    stub.disable = lambda function, *rest, **options: function
    stub.graph_break = lambda: None
    sys.modules["torch._dynamo"] = stub

import os
import pathlib

import robbench.machine.memory
import robbench.report.bundle
import robbench.stages.robustness_stage
import robbench.stages.training_stage


def noted(make):
    def run(work):
        pathlib.Path("made").mkdir(exist_ok=True)
        number = len(os.listdir("made"))
        pathlib.Path(f"made/{{work.task.name}} {{os.getpid()}} {{number}}").touch()
        return make(work)

    return run


robbench.stages.training_stage.train_model = noted(robbench.stages.training_stage.train_model)
robbench.stages.robustness_stage.estimate_model = noted(robbench.stages.robustness_stage.estimate_model)
if not {drawn}:
    robbench.report.bundle.draw = robbench.report.bundle.draw_study = lambda *rest: []
robbench.stages.robustness_stage.SAVE_SECONDS = 0.1
robbench.machine.memory.LARGEST_BATCH["cpu"] = 16


def pytest_runtest_logstart(nodeid):
    pathlib.Path("item.txt").write_text(nodeid)


def pytest_sessionfinish():
    pathlib.Path("item.txt").write_text("the report")
"""

SEARCHES = ("reference", "fast")
NOT_COMPARED = {"seconds", "validation_seconds", "created", "environment"}
"""Fields of JSON that no two runs share, at whatever depth."""


def write(
    folder: Path,
    *,
    searches: Sequence[str] = SEARCHES,
    epochs: int = 5,
    images: int = 800,
    steps: int = 10,
    attacked: int = 40,
    drawn: bool = True,
    network: str = "net:small",
) -> Path:
    """A project of a study for each search, which share their models, and whose reports have pictures; its folder."""
    folder.mkdir(parents=True)
    (folder / "net.py").write_text(NETWORK)
    (folder / "conftest.py").write_text(CONFTEST.format(drawn=drawn))
    (folder / "pytest.ini").write_text(
        "[pytest]\naddopts = -p no:hypothesispytest -p no:anyio -p no:cacheprovider\nrobbench_device = cpu\n"
    )
    for search in searches:
        text = SUITE.format(search=search, epochs=epochs, steps=steps, attacked=attacked, network=network)
        (folder / f"test_{search}.py").write_text(text)
    for name, drawn in (("digits", "glyphs10"), ("letters", "glyphs47")):  # on disk: drawing takes seconds in every run
        data = load(Dataset(name=drawn, train=images, test=attacked), folder)
        write_npz(folder / ".robbench" / "data" / f"{name}.npz", replace(data, name=name))
    return folder


def start(folder: Path, *options: str, log: str = "log.txt", update: bool = True) -> BaseProcess:
    """Run pytest with some options in a folder, as a process of its own whose output goes to a file there.

    It writes baselines, or (without ``update``) is held to those that are there.
    """
    options = (*(["--robbench-update"] if update else []), *options)
    process = multiprocessing.get_context("fork").Process(target=_pytest, args=(folder, options, log))
    process.start()
    return process


def _pytest(folder: Path, options: tuple[str, ...], log: str) -> None:
    os.chdir(folder)
    handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for number in (1, 2):
        os.dup2(handle, number)
    sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # Workers of pytest-xdist import robbench anew, from where this file is.
    os.environ |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}", "PYTEST_ADDOPTS": ""}
    os.environ.pop("PYTEST_XDIST_WORKER", None)
    sys.path[:0] = [str(ROOT), str(folder)]
    torch.set_num_threads(1)
    status = pytest.main(list(options))
    sys.stdout.flush()
    os._exit(int(status))


def wait_for_stages(folder: Path, number: int) -> None:
    """Return once a project's store has so many finished stages.

    Raises:
        TimeoutError: it did not get there in two minutes.
    """
    until = time.monotonic() + 120
    while len(list((folder / ".robbench" / "store").glob("*/*/stage.json"))) < number:
        if time.monotonic() > until:
            raise TimeoutError(f"{folder}: expected {number} finished stages within two minutes")
        time.sleep(0.05)


def stages(folder: Path) -> dict[str, dict[str, Any]]:
    """Every finished stage of a project's store by its name: the SHA-256 of its weights, and what stage.json compares."""
    found = {}
    for path in sorted((folder / ".robbench" / "store").glob("*/*/stage.json")):
        values = json.loads(path.read_bytes())
        record = values["record"]
        name = f"{record['case']}.{record['stage']} {record['result'].get('search', '')}".strip()
        weights = values["weights_sha256"] or ""
        if weights:
            data = (path.parent / f"weights.{weights}.safetensors").read_bytes()
            assert hashlib.sha256(data).hexdigest() == weights, path
        found[name] = {"weights": weights, "record": plain(record)}
    return found


def plain(values: Any) -> Any:
    """JSON without what no two runs share."""
    if isinstance(values, dict):
        return {name: plain(value) for name, value in values.items() if name not in NOT_COMPARED}
    return [plain(value) for value in values] if isinstance(values, list) else values


def shown(folder: Path, log: str = "log.txt") -> list[list[str]]:
    """The rows of the tables that a run printed, without their seconds."""
    lines = (folder / log).read_text().splitlines()
    rows = []
    for start in (number for number, line in enumerate(lines) if line.startswith("model  ")):
        for line in lines[start + 2 : lines.index("", start)]:
            cells = re.split(r"  +", line.strip())
            rows.append([*cells[:3], cells[4], cells[6]])
    return rows


def bundles(folder: Path) -> dict[str, Any]:
    """What is compared of the bundles: names of all files, and contents of those that hold no seconds."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "reports").rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = ""
        if path.name == "pstar.csv.gz":
            found[name] = gzip.decompress(path.read_bytes()).decode()
        elif path.name == "results.csv":
            header, *rows = (line.split(",") for line in path.read_text().splitlines())
            timed = {number for number, field in enumerate(header) if "seconds" in field or "speed" in field}
            found[name] = [[cell for number, cell in enumerate(row) if number not in timed] for row in rows]
        elif path.name == "records.json":
            bundle = msgspec.to_builtins(read_bundle(path))
            del bundle["command"]
            bundle["verdicts"] = [verdict for verdict in bundle["verdicts"] if verdict["figure"] != "seconds"]
            found[name] = plain(bundle)
        elif path.name == "report.md":
            found[name] = without_seconds(path.read_text())
        elif path.suffix == ".png" and not path.stem.endswith(("-seconds", "-answers")):  # the speed-up is one of these
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def without_seconds(report: str) -> list[str]:
    """The lines of a report without dates and command: sentences about seconds without digits, tables without such columns,
    and nothing about how busy the machine was.
    """
    lines, timed = [], set[int]()
    report = re.sub(r"^\*\*Measured on a busy machine\*\*.*?\n\n", "", report, flags=re.MULTILINE | re.DOTALL)
    for dated in filter(None, report.splitlines()):
        line = re.sub(r"\d{4}-\d\d-\d\dT[\d:+]+|^pytest\b.*", "#", dated)
        cells = [" ".join(cell.split()) for cell in line.split("|")]
        if len(cells) == 1:
            timed = set()
            lines.append(re.sub(r"[\d.,]+", "#", line) if re.search(r"second|faster|slower|speed| s\b", line) else line)
        else:
            timed = timed or {at for at, cell in enumerate(cells) if re.search("seconds|speed", cell)} or {-1}
            lines.append(" | ".join(cell.strip("-:") for at, cell in enumerate(cells) if at not in timed))
    return lines


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Where two JSON values differ."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [
            found
            for key in sorted({*one, *other})
            for found in differences(one.get(key), other.get(key), f"{where}/{key}")
        ]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            found for n, pair in enumerate(zip(one, other, strict=True)) for found in differences(*pair, f"{where}/{n}")
        ]
    return [] if one == other else [f"{where}: {str(one)[:60]} is not {str(other)[:60]}"]
