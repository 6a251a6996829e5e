"""Nothing that robbench reads can run code, no name leads out of a folder, and no text breaks a report."""

from __future__ import annotations

import ast
import pickle
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import both_records, make_facts
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

import robbench
import robbench.report.bundle
from robbench.cli import main
from robbench.data import load
from robbench.errors import RobbenchError
from robbench.gate.baselines import baseline_path, read_baseline, write_baseline
from robbench.models import build
from robbench.report import Bundle, read_bundle, write_bundle
from robbench.report.drawing import file_name
from robbench.spec import Checkpoint, Dataset
from robbench.stages.networks import read_checkpoint
from robbench.store.store import Store

DIGEST = "ab" * 32
FILES = sorted(Path(robbench.__file__).parent.rglob("*.py"))

# --- the package itself -----------------------------------------------------------------------------------------------

FORBIDDEN_MODULES = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__"),
    *("torch.load", "torch.jit.load", "torch.hub.load", "pandas.read_pickle", "pd.read_pickle", "os.system"),
}
RUNS_USERS_CODE = {
    "models/build.py": "import_module",
    "plugin/code.py": "import_module",
    "suites.py": "exec_module",
}
"""Where code is run on purpose: an architecture's function and a suite file, both named by the user who runs them."""


def called(node: ast.Call) -> str:
    """The dotted name of what is called, as far as it is one."""
    parts, value = [], node.func
    while isinstance(value, ast.Attribute):
        parts.append(value.attr)
        value = value.value
    return ".".join(reversed([*parts, value.id if isinstance(value, ast.Name) else "?"]))


def dangers(source: str, where: str) -> list[str]:
    """Every construct of a module by which a file's content could run."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            found += [f"import {name}" for name in names if name.partition(".")[0] in FORBIDDEN_MODULES]
        if not isinstance(node, ast.Call):
            continue
        name = called(node)
        arguments = {keyword.arg: keyword.value for keyword in node.keywords}
        found += [name] if name in FORBIDDEN_CALLS else []
        if name.endswith(("import_module", "exec_module")) and not name.endswith(RUNS_USERS_CODE.get(where, "nowhere")):
            found.append(name)
        if name in ("np.load", "numpy.load"):
            allowed = arguments.get("allow_pickle")
            found += [] if isinstance(allowed, ast.Constant) and allowed.value is False else [name]
        if name.startswith("subprocess."):
            shell = arguments.get("shell")
            found += [] if shell is None else [name]
    return [f"{where}: {name}" for name in found]


def test_no_module_can_run_what_it_reads() -> None:
    """No pickle, no eval, no torch.load, no shell; imports by name only where users name their own code."""
    root = Path(robbench.__file__).parent
    assert len(FILES) > 50
    assert [found for path in FILES for found in dangers(path.read_text(), str(path.relative_to(root)))] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import torch\ntorch.load('x', weights_only=True)",
        "import numpy as np\nnp.load('x')",
        "import numpy as np\nnp.load('x', allow_pickle=flag)",
        "eval('1')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "from importlib import import_module\nimport_module(name)",
    ],
)
def test_the_scan_finds_what_it_looks_for(source: str) -> None:
    """Every kind of danger, once."""
    assert len(dangers(source, "report/tables.py")) == 1


# --- files that would run code ----------------------------------------------------------------------------------------


class Bomb:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


@pytest.fixture
def bomb(tmp_path: Path):
    """A pickle that runs code, and proof afterwards that it never ran."""
    sign = tmp_path / "it ran"
    data = pickle.dumps(Bomb(sign))
    pickle.loads(data)  # noqa: S301  it does work
    assert sign.exists()
    sign.unlink()
    yield data
    assert not sign.exists()


def test_a_pickle_in_place_of_tensors_is_refused(bomb: bytes, tmp_path: Path) -> None:
    """As weights, as a checkpoint and as a user's own weights, in a zip as torch.save writes it too."""
    store = Store(tmp_path / "store", "run")
    store.finish(both_records(make_facts(), [1], digest=DIGEST)[0], {"w": torch.ones(2)})
    folder = next((tmp_path / "store").rglob("stage.json")).parent
    archive = tmp_path / "archive"
    torch.save({"w": torch.ones(2)}, archive)
    network = build("cnn3", classes=2, shape=(1, 28, 28))
    for data in (bomb, archive.read_bytes()):
        for name in ("weights", "checkpoint"):
            (folder / f"{name}.safetensors").write_bytes(data)
        with pytest.raises(RobbenchError, match=r"weights\.safetensors is damaged"):
            store.weights(DIGEST)
        with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
            store.load_checkpoint(DIGEST)
        (tmp_path / "mine.safetensors").write_bytes(data)
        with pytest.raises(RobbenchError, match="expected a safetensors file"):
            read_checkpoint(network, Checkpoint(path=str(tmp_path / "mine.safetensors")))


def test_a_pickle_in_a_prepared_file_is_refused(bomb: bytes, tmp_path: Path) -> None:
    """As the file, and as an array of objects inside of it."""
    (tmp_path / "mine.npz").write_bytes(bomb)
    with pytest.raises(RobbenchError, match=r"expected an \.npz archive"):
        load("mine", folder=tmp_path)
    images, labels = np.zeros((4, 8, 8), np.uint8), np.arange(4) % 2
    objects = np.array([Bomb(tmp_path / "it ran"), "b"], dtype=object)
    np.savez(tmp_path / "mine.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, classes=objects)
    with pytest.raises(RobbenchError, match=r"array classes: expected .*got Python objects"):
        load("mine", folder=tmp_path)


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_cifars_pickles_are_read_only_with_the_published_checksums(
    name: str, folder: str, bomb: bytes, tmp_path: Path
) -> None:
    """CIFAR is published as pickles: torchvision unpickles only files that have the MD5 of the published ones."""
    where = tmp_path / folder
    where.mkdir()
    for file in ("train", "test", "meta", "batches.meta", "test_batch", *(f"data_batch_{n}" for n in range(1, 6))):
        (where / file).write_bytes(bomb)
    with pytest.raises(RobbenchError, match="torchvision could not read it: RuntimeError: Dataset not found or corrup"):
        load(name, folder=tmp_path)


def test_an_old_torch_file_of_mnist_cannot_run_code(bomb: bytes, tmp_path: Path) -> None:
    """Torchvision still reads ``processed/training.pt`` of its early versions, tensors alone."""
    for folder in ("raw", "processed"):
        (tmp_path / "MNIST" / folder).mkdir(parents=True)
    for part in ("training", "test"):
        torch.save(Bomb(tmp_path / "it ran"), tmp_path / "MNIST" / "processed" / f"{part}.pt")
    with pytest.raises(RobbenchError, match="torchvision could not read it"):
        load("mnist", folder=tmp_path)


def test_what_a_record_names_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """An architecture, source or spec of a record may name a module: rendering and comparing never import it."""
    (tmp_path / "evil_networks.py").write_text(f"open({str(tmp_path / 'it ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    name = "evil_networks:small"
    facts = make_facts("transfer", "emnist", 1, architecture=name, source_case=name, head=name, kept=name)
    records = both_records(facts, [1, 2], case="evil", spec={"architecture": name, "kind": name})
    for record in records:
        write_baseline(tmp_path / "baselines", record)
    write_bundle(tmp_path / "bundle", Bundle(title=name, command=name, records=records))
    assert main(["report", str(tmp_path / "bundle")]) == 0
    assert main(["compare", str(tmp_path / "bundle"), "--baselines", str(tmp_path / "baselines")]) == 0
    assert "no regression" in capsys.readouterr().out
    assert "evil_networks" not in sys.modules
    assert not (tmp_path / "it ran").exists()


# --- paths ------------------------------------------------------------------------------------------------------------

PATHS = ["../x", "..", ".", "", "/etc/passwd", "a/b", "a\\b", "C:x", "x\0y", ".hidden", "a/../../b"]


@pytest.mark.parametrize("name", PATHS)
def test_a_name_from_a_record_leads_out_of_no_folder(name: str, tmp_path: Path) -> None:
    """A suite or case of that name has no baseline, and comparing its record is an error."""
    for suite, case in ((name, "case"), ("suite", f"{name}/x" if name in ("", ".", "..") else name)):
        with pytest.raises(RobbenchError, match="baseline name: expected a plain file name"):
            baseline_path(tmp_path, suite, case, "training")
        with pytest.raises(RobbenchError, match="baseline name"):
            read_baseline(tmp_path, suite, case, "training")


@pytest.mark.parametrize("name", [*PATHS, "two words", "line\nbreak", "a|b", "<script>", "`x`", "a..b", "-x"])
def test_a_dataset_has_a_plain_name(name: str, tmp_path: Path) -> None:
    """In a spec as in the loader."""
    with pytest.raises(RobbenchError, match="dataset name: expected a plain name"):
        Dataset(name=name)
    with pytest.raises(RobbenchError, match="dataset: expected a plain file name"):
        load(name, folder=tmp_path)


@settings(max_examples=200)
@given(st.lists(st.text(max_size=20) | st.sampled_from(PATHS), max_size=3))
def test_a_picture_lies_in_its_folder(parts: list[str]) -> None:
    """Whatever study and architecture are called."""
    name = file_name(*parts)
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*\.png|\.png", name)
    assert Path("figures", name).resolve().parent == Path("figures").resolve()


# --- text -------------------------------------------------------------------------------------------------------------

NASTY = "a|b<script>alert(1)</script>`c`\n# d\n\n[e](f) ![g](h) *i* $\\frac$ \x1b[31m\x07\x9b\u202e\u2066\u200b ]("


def test_a_users_weights_that_change_under_way_are_noticed(tmp_path: Path) -> None:
    """The digest stands for the file that it was taken of, not for one that took its place."""
    path = tmp_path / "mine.safetensors"
    network = build("cnn3", classes=2, shape=(1, 28, 28))
    save_file(network.body.state_dict(), path)
    mine = Checkpoint(path=str(path))
    assert len(mine.sha256) == 64
    read_checkpoint(network, mine)
    save_file({name: value + 1 for name, value in network.body.state_dict().items()}, path)
    with pytest.raises(RobbenchError, match="has changed since this run began"):
        read_checkpoint(network, mine)


def test_a_bundle_of_hostile_names_can_be_written_and_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of it lands outside the folder."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    records = both_records(make_facts(architecture="../../x"), [1], suite="../s", case="../../c")
    write_bundle(tmp_path / "a" / "b", Bundle(title="../t", command="c", records=records))
    assert {path.name for path in tmp_path.iterdir()} == {"a"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"b"}
    assert {record.case for record in read_bundle(tmp_path / "a" / "b").records} == {"../../c"}
