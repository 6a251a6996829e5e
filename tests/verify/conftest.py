"""A finished run to verify, made once, and a copy of it for every test."""

from __future__ import annotations

import shutil
import sys

import pytest
import torch
from alterations import FAST, NETWORK, REFERENCE, SOURCE, TARGET, Place

from robbench.cli import main
from robbench.data import Data, draw, write_npz
from robbench.data.glyphs import GLYPHS
from robbench.report import Bundle
from robbench.report.bundle import encode_bundle
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store import Store


@pytest.fixture(scope="session")
def made(tmp_path_factory, one_thread):
    """A source and a transfer, each with p* by both searches: data, store and bundle as a run leaves them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "proven_net.py").write_text(NETWORK)
    sys.path.insert(0, str(folder))
    for name, glyphs, train in (("digits", "glyphs10", 300), ("letters", "glyphs47", 500)):
        data = Data(name, draw(glyphs, train, 1), draw(glyphs, 60, 2), GLYPHS[glyphs])
        write_npz(folder / "data" / f"{name}.npz", data)
    store, device = Store(folder / "store"), torch.device("cpu")
    context = RunContext(store=store, data=folder / "data", device=device, keep_adversarials=True)
    records = [
        run_stage(task, context, suite=suite)
        for model in (SOURCE, TARGET)
        for suite, estimate in (("one", REFERENCE), ("two", FAST))
        for task in (Task("training", model), Task("robustness", model, estimate))
    ]
    (folder / "bundle").mkdir()
    bundle = Bundle(title="proof", command="pytest", records=records)
    (folder / "bundle" / "records.json").write_bytes(encode_bundle(bundle))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("proven_net", None)


@pytest.fixture
def place(made, tmp_path):
    """A copy of all of it."""
    shutil.copytree(made, tmp_path / "copy")
    return Place(tmp_path / "copy")


@pytest.fixture
def verified(place, capsys):
    """Verify the copy on the command line, its network named as own code: exit status, and the lines printed."""

    def run(*options):
        folders = [text for name in ("store", "data") for text in (f"--{name}", str(place.folder / name))]
        options = options or ("--code", "proven_net")
        status = main(["verify", str(place.bundle), *folders, "--device", "cpu", *options])
        captured = capsys.readouterr()
        assert captured.err == ""
        return status, captured.out.splitlines()

    return run
