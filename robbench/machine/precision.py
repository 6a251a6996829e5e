"""How precisely float32 products and convolutions are computed: TF32 where it is allowed, float32 where it counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

_PER_OPERATION = hasattr(torch.backends.cudnn, "conv")
"""Whether torch has a switch ``fp32_precision`` for every backend and operation (2.9 and newer), beside the older ones."""

_NAMES = {("ieee", "ieee"): "highest", ("tf32", "tf32"): "high", ("tf32", "bf16"): "medium"}
"""What ``torch.get_float32_matmul_precision`` calls the precision of products by CUDA and by oneDNN."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 inference without autocast, and without TF32 or bfloat16 inside products."""
    with torch.autocast(device.type, enabled=False), tensor_cores(False):
        yield


@contextmanager
def tensor_cores(allowed: bool = True) -> Iterator[None]:
    """Whether products and convolutions of float32 may round their factors; afterwards the switches are as before.

    Allowed, CUDA rounds to TF32, and the CPU does what it was set to. Not allowed, neither rounds. An operation that
    followed one of torch's general switches is set to the same value by itself afterwards.

    Inside, torch 2.9 and newer do not let ``torch.backends.cudnn.allow_tf32`` be read, so a network must not use it.
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
    if _PER_OPERATION:
        return bool(_operations("cudnn")[0].fp32_precision == "tf32")
    return torch.backends.cudnn.allow_tf32


def matmul_precision() -> str:
    """Of products of float32: ``highest``, ``high`` or ``medium`` as torch names it, or what each backend does."""
    if not _PER_OPERATION:
        return torch.get_float32_matmul_precision()
    found = (product.fp32_precision for product in _products())
    cuda, onednn = ("ieee" if precision == "none" else precision for precision in found)
    return _NAMES.get((cuda, onednn), f"cuda {cuda}, mkldnn {onednn}")


def _products() -> tuple[Any, Any]:
    """The switches of products, on CUDA and by oneDNN."""
    return torch.backends.cuda.matmul, torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def _operations(backend: str) -> tuple[Any, Any]:
    """The switches of convolutions and of recurrent layers."""
    switches: Any = getattr(torch.backends, backend)
    return switches.conv, switches.rnn


def _switch(allowed: bool) -> Callable[[], None]:
    """Set the switches of torch 2.9 and newer; returns what sets them back."""
    cuda, onednn = ((product, *_operations(of)) for product, of in zip(_products(), ("cudnn", "mkldnn"), strict=True))
    before = [(switch, switch.fp32_precision) for switch in (*cuda, *onednn)]
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:  # it disagrees with the newer switches
        older = "highest"
    # The older switch is set, too, since torch.compile reads it; it must agree with the newer ones.
    rounded = "medium" if onednn[0].fp32_precision == "bf16" else "high"
    torch.set_float32_matmul_precision(rounded if allowed else "highest")
    inside = {switch: "tf32" for switch in cuda} if allowed else dict.fromkeys((*cuda, *onednn), "ieee")
    _put((switch, inside.get(switch, value)) for switch, value in before)

    def restore() -> None:
        torch.set_float32_matmul_precision(older)
        _put(before)

    return restore


def _put(values: Any) -> None:
    for switch, value in values:
        if switch.fp32_precision != value:
            switch.fp32_precision = value


def _switch_older(allowed: bool) -> Callable[[], None]:
    """As :func:`_switch`, by the switches of torch 2.8 and older."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    def restore() -> None:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions

    if not allowed:
        torch.set_float32_matmul_precision("highest")
    elif products == "highest":
        torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = allowed
    return restore
