"""``--robbench-deterministic``: only kernels that give the same bits every time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from robbench.errors import RobbenchError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable that cuBLAS reads when CUDA starts; without it, cuBLAS is not deterministic on several streams."""


@contextmanager
def cublas_workspace() -> Iterator[None]:
    """Give cuBLAS a deterministic workspace, unless the user has set one; to be entered before CUDA starts."""
    own = WORKSPACE in os.environ
    os.environ.setdefault(WORKSPACE, ":4096:8")
    try:
        yield
    finally:
        if not own:
            os.environ.pop(WORKSPACE, None)


@contextmanager
def deterministic_algorithms() -> Iterator[None]:
    """Allow deterministic kernels only, on every device; afterwards the switches are as before."""
    import torch  # not at the top: the plugin sets up the workspace without loading torch

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
    """Torch's error about an operation that is not deterministic, in robbench's words; any other error unchanged."""
    found = re.match(r"(\S+) does not have a deterministic implementation", str(error))
    if found is None:
        return error
    return RobbenchError(
        f"--robbench-deterministic: expected operations that torch can repeat bit for bit, got {found[1]}, which it cannot on "
        "this device; replace it in the network, or run without the option"
    )
