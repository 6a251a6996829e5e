"""The same seed gives the same bits: in another process, with other hashes, and with the switch that promises it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import repeated
import torch
from torch import nn

import robbench
from robbench.machine.determinism import WORKSPACE, cublas_workspace, deterministic_algorithms, explained
from robbench.machine.environment import environment

CPU = torch.device("cpu")


def switches():
    """Torch's, and the environment variable of cuBLAS."""
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


@pytest.mark.parametrize("workspace", [None, ":16:8"])
def test_the_switch_is_put_back(monkeypatch, workspace):
    """On inside, and after an error whatever it was; a workspace of the user's own stays."""
    monkeypatch.delenv(WORKSPACE, raising=False)
    if workspace:
        monkeypatch.setenv(WORKSPACE, workspace)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before, inside = switches(), []
    with suppress(KeyError), cublas_workspace(), deterministic_algorithms():
        inside += switches()
        raise KeyError
    assert inside == [True, False, True, False, workspace or ":4096:8"]
    assert switches() == before


def test_an_environment_says_how_it_was_switched():
    """Seconds compare with those of the same switch only."""
    plain = environment(CPU)
    with deterministic_algorithms():
        switched = environment(CPU)
    assert (plain.deterministic, switched.deterministic) == (False, True)
    assert switched.slug == f"{plain.slug}-deterministic"


def test_an_operation_that_cannot_be_repeated_is_named():
    """One sentence that says which one, and what to do; other errors stay as they are."""
    values, index = nn.functional.max_pool2d(torch.rand(1, 1, 4, 4), 2, return_indices=True)
    with deterministic_algorithms(), pytest.raises(RuntimeError) as caught:
        nn.functional.max_unpool2d(values.requires_grad_(), index, 2)
    told = r"--robbench-deterministic: expected .*, got max_unpooling2d\w*, which it cannot on this device"
    assert re.match(told, str(explained(caught.value)))
    other = ValueError("x")
    assert explained(other) is other
