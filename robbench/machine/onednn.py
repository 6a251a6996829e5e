"""The memory layouts of oneDNN, torch's library for CPUs, and a convolution of it that torch has no public name for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Of the tensors that operators are tried with, whatever torch makes by default."""

_plain: ContextVar[bool] = ContextVar("plain", default=False)


def dense(features: Tensor) -> Tensor:
    """A tensor in a layout that every operation knows."""
    return features.to_dense() if features.is_mkldnn else features


@contextmanager
def plain_layers() -> Iterator[None]:
    """Torch's own operators and layout for every layer within: oneDNN's ReLU and pooling make numbers of NaN."""
    token = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(token)


def has_blocked_layout() -> bool:
    """Whether oneDNN is there and in use, nobody wants plain layers, and no autocast would choose another dtype."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    used = there and bool(torch.backends.mkldnn.enabled) and not _plain.get()
    return used and not torch.is_autocast_enabled("cpu")


@cache
def fused_convolution() -> Callable[[Tensor, Tensor, Tensor | None, int], Tensor] | None:
    """The convolution of oneDNN with a ReLU in its last loop, as torch's compiler calls it; None where torch has it otherwise.

    The operator is no part of torch's public interface, so it is tried before it is used.
    """

    def convolve(features: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
        operator = torch.ops.mkldnn._convolution_pointwise
        found: Tensor = operator(features, weight, bias, [padding] * 2, [1, 1], [1, 1], 1, "relu", [], "")
        return found

    pixel = torch.tensor([-1.0, 2.0], **_PLAIN).view(2, 1, 1, 1)
    try:
        found = convolve(pixel.to_mkldnn(), torch.full((1, 1, 1, 1), 3.0, **_PLAIN), None, 0)
    except (AttributeError, RuntimeError, TypeError):
        return None
    return convolve if found.is_mkldnn and dense(found).flatten().tolist() == [0, 6] else None
