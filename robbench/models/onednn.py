"""The memory layouts of oneDNN, torch's library for CPUs, and two of its operations that torch has no public name for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
from torch import Tensor

_PLAIN: dict[str, Any] = {"dtype": torch.float32, "device": "cpu"}
"""Of the tensors that operators are tried with, whatever torch makes by default."""

_MOST_LAYOUTS = 1_000
"""Pairs of layouts that are remembered at a time."""


def dense(features: Tensor) -> Tensor:
    """A tensor in a layout that every operation knows."""
    return features.to_dense() if features.is_mkldnn else features


def has_blocked_layout() -> bool:
    """Whether oneDNN is there and in use, and no autocast would choose another dtype."""
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.backends.mkldnn.enabled) and not torch.is_autocast_enabled("cpu")


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


_unseen: ContextVar[bool] = ContextVar("unseen", default=False)


@contextmanager
def unseen_gradients() -> Iterator[None]:
    """For a backward pass whose caller wants the gradients of images or weights, and nobody those between layers.

    Within it layers may overwrite these. Hooks of a network's inner tensors would see them overwritten.
    """
    token = _unseen.set(True)
    try:
        yield
    finally:
        _unseen.reset(token)


def gradients_are_unseen() -> bool:
    """Whether a backward pass runs within :func:`unseen_gradients`."""
    return _unseen.get()


class InPlace:
    """Zeroes gradients in place where a ReLU's result is zero.

    A new tensor costs half as much memory traffic again, and torch offers no other for oneDNN's layouts. The operators that
    say where a tensor lies are no part of torch's public interface, so all is tried before it is used: the operators once,
    a pair of layouts when it comes for the second time (most shapes of a search's last images come only once).
    """

    def __init__(self) -> None:
        self._same: dict[bytes, bool | None] = {}
        gradient, result = (torch.tensor(values, **_PLAIN).to_mkldnn() for values in ([1.0, 2.0, 3.0], [4.0, 0.0, 5.0]))
        try:
            done = [self(gradient, result) for _ in range(2)]
            self.works = done == [False, True] and dense(gradient).tolist() == [1, 0, 3]
        except (AttributeError, RuntimeError, TypeError):
            self.works = False

    def __call__(self, gradient: Tensor, result: Tensor) -> bool:
        """Whether it was done: both tensors are oneDNN's, float32, and have one layout."""
        if not (gradient.is_mkldnn and result.is_mkldnn and gradient.dtype == result.dtype == torch.float32):
            return False
        layouts = b"".join(
            torch.ops.mkldnn._get_mkldnn_serialized_md(each).numpy().tobytes() for each in (gradient, result)
        )
        if layouts not in self._same:
            if len(self._same) == _MOST_LAYOUTS:
                self._same.clear()
            self._same[layouts] = None
            return False
        values, zeros = _memory(gradient), _memory(result)
        if self._same[layouts] is None:
            self._same[layouts] = _lie_alike(gradient, values, result, zeros)
        if not self._same[layouts]:
            return False
        torch.ops.aten.threshold_backward.grad_input(values, zeros, 0, grad_input=values)
        return True


def _memory(tensor: Tensor) -> Tensor:
    """The float32 values of a tensor in oneDNN's layout as they lie in memory; not to outlive it."""
    size, address = torch.ops.mkldnn._nbytes(tensor), torch.ops.mkldnn.data_ptr(tensor)
    return torch.frombuffer((ctypes.c_char * size).from_address(address), dtype=torch.float32)


def _lie_alike(one: Tensor, values: Tensor, other: Tensor, others: Tensor) -> bool:
    """Whether every element of two tensors lies at the same place of its memory; their values are as before afterwards.

    Descriptions of one layout differ in bytes that mean nothing, so numbered places are looked up: in two parts, since
    float32 counts to 2^24.
    """
    if one.shape != other.shape or len(values) != len(others):
        return False
    kept = values.clone(), others.clone()
    places, same = torch.arange(len(values)), True
    for part in (places % 2**20, places // 2**20):
        values.copy_(part), others.copy_(part)
        same = same and torch.equal(dense(one), dense(other))
    values.copy_(kept[0]), others.copy_(kept[1])
    return same


@cache
def zeroing_in_place() -> InPlace | None:
    """None where this torch has no such operators, or others."""
    found = InPlace()
    return found if found.works else None
