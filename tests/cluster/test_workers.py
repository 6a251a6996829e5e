"""What a worker is asked before it gets stages, and what is said of one with which something is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from robbench.cluster import connect
from robbench.cluster.messages import PACKAGES, Facts, Run
from robbench.cluster.worker import look, mismatch, versions
from robbench.cluster.workers import lacks_gpu, shares_gpu
from robbench.data import load_data
from robbench.errors import RobbenchError
from robbench.spec import Dataset

GLYPHS = Dataset(name="glyphs10", train=20, test=10)


@pytest.fixture
def run(tmp_path, request):
    """What the workers of a run are told."""
    return Run(
        name=request.node.name,
        versions=versions(),
        folders=(),
        code=(),
        images=((GLYPHS, load_data(GLYPHS, tmp_path).fingerprint),),
        data=tmp_path,
        store=tmp_path / "store",
        identity="x",
        device="cpu",
        download=False,
        deterministic=False,
        keep_adversarials=False,
    )


def test_a_worker_says_its_class_of_machine_with_its_threads(run):
    """By which its stages' keys and seconds are told apart."""
    facts = look(run, "tcp://a:1", 1)
    assert (facts.fault, facts.gpu, facts.shared) == (None, None, False)
    assert facts.machine.startswith("cpu-")


def test_a_worker_finds_the_store_where_its_folder_is_shared(run):
    """By what stands in it, not by its path."""
    run.store.mkdir()
    (run.store / "identity").write_text("x")
    assert look(run, "tcp://a:1", 1).shared
    (run.store / "identity").write_text("of another store")
    assert not look(run, "tcp://a:1", 1).shared


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"images": ((GLYPHS, "0"),)}, "dataset 'glyphs10': expected the images of the controller, got others in "),
        ({"images": ((Dataset(name="mnist"), "0"),)}, "dataset 'mnist' is not on disk: expected "),
        ({"device": "cuda"}, "device: expected a CUDA device for --robbench-device cuda, this machine has none"),
        ({"versions": (("torch", "1.0"),)}, "expected torch 1.0, as on the controller, got "),
        ({"code": (("no_such_module", "0"),)}, "cannot import no_such_module (No module named 'no_such_module'); put "),
        ({"code": (("this", "0"),)}, "this: expected the controller's (0), got "),
    ],
    ids=["other images", "no images", "no GPU", "versions", "no code", "other code"],
)
def test_what_is_wrong_with_a_worker_is_one_sentence_that_names_it(run, changes, said, monkeypatch):
    """Before it gets any stage."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    fault = look(replace(run, **changes), "tcp://a:1", 1).fault
    assert fault.startswith("worker tcp://a:1 on ")
    assert f": {said}" in fault
    assert "\n" not in fault


def test_a_worker_reads_the_data_folder_of_its_own_environment(run, tmp_path, monkeypatch):
    """Where the controller's path means nothing."""
    monkeypatch.setenv("ROBBENCH_DATA", str(tmp_path / "elsewhere"))
    assert "elsewhere" in look(replace(run, images=((Dataset(name="mnist"), "0"),)), "tcp://a:1", 1).fault


def gpu(address, name):
    """A worker with that GPU."""
    return Facts(address=address, host="box", machine="l4", device="NVIDIA L4", gpu=name)


def test_two_workers_on_one_gpu_are_refused():
    """And a worker without a GPU beside one that has one."""
    assert shares_gpu([gpu("tcp://a", "0"), gpu("tcp://b", "1")]) is None
    assert "tcp://a and tcp://b: expected a GPU for each, got one" in shares_gpu(
        [gpu("tcp://a", "0"), gpu("tcp://b", "0")]
    )
    assert lacks_gpu([gpu("tcp://a", "0")]) is lacks_gpu([gpu("tcp://a", None)]) is None
    assert lacks_gpu([gpu("tcp://a", "0"), gpu("tcp://b", None)]).startswith("worker tcp://b on box: expected a CUDA")


class Client:
    """Tells versions."""

    def __init__(self, **workers):
        here = dict.fromkeys(("python", "distributed", *PACKAGES), "1.0")
        self._workers = {address: {"packages": here | other} for address, other in workers.items()}
        self._here = {"packages": here}

    def get_versions(self, packages):
        """As dask's."""
        scheduler = {"packages": dict.fromkeys(("python", "distributed"), "1.0")}
        return {"client": self._here, "scheduler": scheduler, "workers": self._workers}


def test_other_versions_on_a_worker_are_one_sentence():
    """They would round otherwise, or not understand each other."""
    connect.check_versions(Client(a={}), mismatch, PACKAGES)
    said = (
        "^worker b: expected torch 1.0, torchvision 1.0, as on the controller, got 2.0, None; install the same there$"
    )
    with pytest.raises(RobbenchError, match=said):
        connect.check_versions(Client(a={}, b={"torch": "2.0", "torchvision": None}), mismatch, PACKAGES)


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense://x"])
def test_an_address_where_no_scheduler_answers_is_one_sentence(address, monkeypatch):
    """After a few seconds."""
    monkeypatch.setattr(connect, "PATIENCE", 0.5)
    with (
        pytest.raises(RobbenchError, match=f"^--robbench-scheduler: .* nothing answers at '{address}'$"),
        connect.connected(address, 1, "cpu"),
    ):
        pass


def test_more_workers_than_gpus_are_refused(monkeypatch):
    """Each worker sees a GPU of its own, of those that the user lets be seen."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert connect._environments(2, "auto") == [{"CUDA_VISIBLE_DEVICES": "5"}, {"CUDA_VISIBLE_DEVICES": "7"}]
    assert connect._environments(3, "cpu") == [{}, {}, {}]
    with pytest.raises(RobbenchError, match="--robbench-workers: expected at most one for each of the 2 CUDA devices"):
        connect._environments(3, "auto")


def test_a_worker_imports_neither_pytest_nor_what_renders():
    """Its process begins fast."""
    import subprocess
    import sys

    code = (
        "import sys, robbench.cluster.worker, robbench.stages.training_stage, robbench.stages.robustness_stage\n"
        "print(sorted({'pytest', 'pandas', 'tabulate', 'robbench.report'} & sys.modules.keys()))"
    )
    root = Path(connect.__file__).parents[2]
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert found.stdout == "[]\n"


def test_workers_of_a_runs_own_keep_their_memory(monkeypatch):
    """Dask would let them hand back every large tensor's."""
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    with connect.connected(None, 1, "cpu") as client:
        client.wait_for_workers(1, timeout=60)
        assert [*client.run(os.environ.get, "MALLOC_TRIM_THRESHOLD_").values()] == [None]
    assert "DASK_INTERNAL_INHERIT_CONFIG" not in os.environ
