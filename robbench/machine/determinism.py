"""``--robbench-deterministic``: kernels that give the same bits every time, or none at all."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from robbench.errors import RobbenchError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that cuBLAS reads once, when CUDA starts; with several streams it is deterministic only so."""


@contextmanager
def cublas_workspace() -> Iterator[None]:
    """A deterministic workspace for cuBLAS, unless the user has set one; to be entered before CUDA starts. No torch."""
    if WORKSPACE in os.environ:
        yield
        return
    os.environ[WORKSPACE] = ":4096:8"
    try:
        yield
    finally:
        os.environ.pop(WORKSPACE, None)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Deterministic kernels only, on every device; the switches come back after.

    TF32, which training allows on every GPU, and a recipe's bfloat16 stay: they round, but always alike.
    """
    import torch  # here: the workspace above is set up long before torch is needed

    cudnn = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    choices = cudnn.deterministic, cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = choices


def explained(error: Exception) -> Exception:
    """Torch's complaint about an operation that cannot be deterministic as one sentence; any other error as it is."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found is None:
        return error
    return RobbenchError(
        f"--robbench-deterministic: expected operations that torch can repeat bit for bit, {found[1]} is none on this "
        "device; replace it in the network, or run without the option"
    )
