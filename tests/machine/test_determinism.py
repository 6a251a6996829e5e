"""The same seed gives the same bits: in another process, with other hashes, and with the switch that promises it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import repeated
import torch
from torch import nn

import robbench
import robbench.machine.memory
from robbench.errors import RobbenchError
from robbench.machine.determinism import WORKSPACE, cublas_workspace, deterministic_algorithms, explained
from robbench.machine.environment import environment
from robbench.record import Environment
from robbench.stages import Task, run_stage
from robbench.stages.context import RunContext
from robbench.store.store import Store

CPU = torch.device("cpu")


def switches():
    """Torch's switches, and the environment variable of cuBLAS."""
    cudnn = torch.backends.cudnn
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        os.environ.get(WORKSPACE),
    )


# --- the same bits ----------------------------------------------------------------------------------------------------


def test_another_process_gives_the_same_bits(tmp_path):
    """Weights of training and both kinds of transfer, p* of both searches, records, and the report's text."""
    code = "import json, sys, repeated; from pathlib import Path; print(json.dumps(repeated.study(Path(sys.argv[1]))))"
    folders = Path(robbench.__file__).parents[1], Path(repeated.__file__).parent
    settings = {"PYTHONPATH": os.pathsep.join(map(str, folders)), "PYTHONHASHSEED": "77", "OMP_NUM_THREADS": "1"}
    (tmp_path / "other").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "other")],
        env={**os.environ, **settings},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    torch.manual_seed(5)  # the state of the global generators must not matter
    with deterministic_algorithms():  # nor, on the CPU, the switch
        ours = repeated.study(tmp_path / "one")
    assert json.loads(json.dumps(ours)) == json.loads(done.stdout)
    assert len(ours["weights"]) == 3
    assert "TL#1" in ours["report"]


# --- the switch -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fails", [False, True])
def test_the_switch_is_put_back(monkeypatch, fails):
    """On inside, and afterwards whatever it was, after an error, too."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = switches()
    inside = None
    try:
        with cublas_workspace(), deterministic_algorithms():
            inside = switches()
            if fails:
                raise KeyError
    except KeyError:
        pass
    assert inside == (True, False, True, False, ":4096:8")
    assert switches() == before != inside


def test_a_workspace_of_the_users_own_stays(monkeypatch):
    """It may be the smaller of the two that are deterministic."""
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with cublas_workspace():
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"


def test_an_environment_says_how_it_was_switched():
    """Although the rest of it is found out once; seconds compare with those of the same switch only."""
    plain, threads = environment(CPU), torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        with deterministic_algorithms():
            switched = environment(CPU)
    finally:
        torch.set_num_threads(threads)
    assert (plain.deterministic, switched.deterministic) == (False, True)
    assert (plain.slug.endswith("-deterministic"), switched.slug.endswith("-deterministic")) == (False, True)
    assert (plain.threads, switched.threads) == (threads, threads + 1)
    assert plain.matmul_precision == torch.get_float32_matmul_precision()
    assert plain.cudnn_benchmark is None
    assert environment(CPU) == plain


def test_batches_do_not_follow_free_memory(monkeypatch, tmp_path):
    """Under the switch the whole memory counts, which is the same in every run."""
    text = "MemTotal: 4000 kB\nMemFree: 100 kB\nMemAvailable: {} kB\n"
    seen = {}
    for free in (1000, 3000):
        monkeypatch.setattr(
            robbench.machine.memory.Path, "read_text", lambda self, encoding, free=free: text.format(free)
        )
        with deterministic_algorithms():
            switched = robbench.machine.memory.free_bytes(CPU)
        seen[free] = robbench.machine.memory.free_bytes(CPU), switched
    assert seen == {1000: (1_024_000, 4_096_000), 3000: (3_072_000, 4_096_000)}


class Unpooling(nn.Module):
    """Trains through an operation that torch cannot repeat bit for bit; inference does without."""

    def __init__(self, classes):
        super().__init__()
        self.fc = nn.Linear(784, classes)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, images):
        """(N, 1, 28, 28) -> (N, classes)."""
        return self.fc((self.unpool(*self.pool(images)) if self.training else images).flatten(1))


def test_an_operation_that_cannot_be_repeated_is_named(tmp_path, monkeypatch):
    """One sentence that says which, and what to do; without the switch the network trains."""
    monkeypatch.setattr(repeated, "small", lambda classes, shape: Unpooling(classes))
    model = repeated.models()[0]

    def train():
        context = RunContext(store=Store(tmp_path / "store"), data=tmp_path / "data", device=CPU)
        return run_stage(Task("training", model), context)

    with (
        deterministic_algorithms(),
        pytest.raises(
            RobbenchError, match=r"--robbench-deterministic: expected .*, max_unpooling2d\w* is none on this"
        ),
    ):
        train()
    assert train().training.epochs
    other = ValueError("x")
    assert explained(other) is other


def test_a_stage_made_without_the_switch_is_made_again(tmp_path):
    """Also where it is only needed by another one; one made with it is taken, by every run."""
    model = repeated.models()[0]

    def train(run):
        context = RunContext(store=Store(tmp_path / "store"), data=tmp_path / "data", device=CPU, resume=True)
        return run_stage(Task("training", model), context)

    first = train("one")
    assert train("two").environment == first.environment
    with deterministic_algorithms():
        again = train("three")
        assert train("four") == again
    assert (first.environment.deterministic, again.environment.deterministic) == (False, True)
    assert train("five") == again


def test_records_from_before_the_switch_stay_readable():
    """What was not recorded is unknown, not off."""
    fields = {"slug": "a", "device": "a", "cpu": "a", "cores": 1, "threads": 1, "system": "a", "python": "3"}
    old = Environment(**fields, robbench="0", torch="2", torchvision="0")
    assert (old.deterministic, old.matmul_precision, old.cudnn_benchmark) == (None, None, None)
