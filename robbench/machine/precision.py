"""How precisely float32 products and convolutions are computed: TF32 where it is allowed, float32 where it counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import torch

_PER_OPERATION = hasattr(torch.backends.cudnn, "conv")
"""Whether torch has a switch ``fp32_precision`` for every backend and operation (2.9 and newer), beside the older ones."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 inference without autocast, and without TF32 or bfloat16 inside products."""
    with torch.autocast(device.type, enabled=False), tensor_cores(False):
        yield


@contextmanager
def tensor_cores(allowed: bool = True) -> Iterator[None]:
    """Whether products and convolutions of float32 may round their factors; afterwards the switches are as before.

    Allowed, CUDA rounds to TF32, and the CPU does what it was set to. Not allowed, neither rounds.
    """
    with warnings.catch_warnings():  # torch 2.9 calls its older switches deprecated
        warnings.simplefilter("ignore")
        restore = (_switch if _PER_OPERATION else _switch_older)(allowed)
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            restore()


def rounds_convolutions() -> bool:
    """Whether convolutions on CUDA may round their factors to TF32."""
    cudnn: Any = torch.backends.cudnn
    return bool(cudnn.conv.fp32_precision == "tf32" if _PER_OPERATION else cudnn.allow_tf32)


def matmul_precision() -> str:
    """How products of float32 round: ``highest``, ``high`` or ``medium`` as torch names it, or what each backend does."""
    backends: Any = torch.backends
    try:
        return torch.get_float32_matmul_precision()
    except RuntimeError:  # this older switch disagrees with the newer ones
        return f"cuda {backends.cuda.matmul.fp32_precision}, mkldnn {backends.mkldnn.matmul.fp32_precision}"


def _switch(allowed: bool) -> Callable[[], None]:
    """Set the switches of torch 2.9 and newer; returns what sets them back."""
    backends: Any = torch.backends
    cuda = backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn
    onednn = backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn
    before = {switch: switch.fp32_precision for switch in (*cuda, *onednn)}
    older = "highest"
    with suppress(RuntimeError):  # it may disagree with the newer ones
        older = torch.get_float32_matmul_precision()
    # torch.compile reads the older switch, so that one has to agree with the newer ones.
    rounded = "medium" if before[onednn[0]] == "bf16" else "high"
    torch.set_float32_matmul_precision(rounded if allowed else "highest")
    _put(before | (dict.fromkeys(cuda, "tf32") if allowed else dict.fromkeys((*cuda, *onednn), "ieee")))

    def restore() -> None:
        torch.set_float32_matmul_precision(older)
        _put(before)

    return restore


def _put(values: dict[Any, str]) -> None:
    for switch, value in values.items():
        if switch.fp32_precision != value:  # one that follows a general switch is left to follow it
            switch.fp32_precision = value


def _switch_older(allowed: bool) -> Callable[[], None]:
    """As :func:`_switch`, by the switches of torch 2.8 and older."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def restore() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions

    torch.set_float32_matmul_precision(("high" if products == "highest" else products) if allowed else "highest")
    torch.backends.cudnn.allow_tf32 = allowed
    return restore
