"""How precisely float32 products and convolutions are computed: TF32 where it is allowed, float32 where it counts."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

_PER_OPERATION = hasattr(torch._C, "_set_fp32_precision_setter")
"""Whether torch has one switch for every backend and operation (2.9 and newer), beside the older ones.

An operation's switch that is ``none`` follows its backend's ``all``, and that one the generic ``all``. Reading the
older switches raises where they disagree with these. The functions of ``torch._C`` are what the attributes of
``torch.backends`` call, except that assigning ``torch.backends.mkldnn.fp32_precision`` sets the generic one.
"""

_NAMES = {("ieee", "ieee"): "highest", ("tf32", "tf32"): "high", ("tf32", "bf16"): "medium"}
"""What ``torch.get_float32_matmul_precision`` calls the precision of products by CUDA and by oneDNN."""


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Float32 inference that deserves the name: outside any autocast, without TF32 or bfloat16 inside products."""
    with torch.autocast(device.type, enabled=False), tensor_cores(False):
        yield


@contextmanager
def tensor_cores(allowed: bool = True) -> Iterator[None]:
    """Whether products and convolutions of float32 may round their factors; every switch comes back after.

    Allowed, CUDA rounds to TF32, and the CPU does what it was set to. Not allowed, neither rounds.

    Inside, the older switches of products can be read; that of convolutions, ``torch.backends.cudnn.allow_tf32``, raises
    from torch 2.9 on where it was left as it is by default, and with it ``torch.backends.cudnn.flags``: a network must
    not use them.
    """
    with warnings.catch_warnings():  # torch 2.9 calls its older switches deprecated, also for who brings both in line
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
        return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"
    return torch.backends.cudnn.allow_tf32


def matmul_precision() -> str:
    """Of products of float32: ``highest``, ``high`` or ``medium`` as torch names it, or what each backend does."""
    if not _PER_OPERATION:
        return torch.get_float32_matmul_precision()
    found = (torch._C._get_fp32_precision_getter(backend, "matmul") for backend in ("cuda", "mkldnn"))
    cuda, onednn = ("ieee" if precision == "none" else precision for precision in found)
    return _NAMES.get((cuda, onednn), f"cuda {cuda}, mkldnn {onednn}")


def _switch(allowed: bool) -> Callable[[], None]:
    """Set the switches; how to set them back, each to what it was itself and not to what it followed."""
    get, put = torch._C._get_fp32_precision_getter, torch._C._set_fp32_precision_setter
    backends = ("cuda", "mkldnn")
    generic = get("generic", "all")
    put("generic", "all", "none")
    alls = {backend: get(backend, "all") for backend in backends}
    for backend in backends:
        put(backend, "all", "none")
    products = {backend: get(backend, "matmul") for backend in backends}
    for backend in backends:
        put(backend, "matmul", "ieee")
    older = torch.get_float32_matmul_precision()  # whatever it is, it agrees with these
    put("generic", "all", generic)
    put("mkldnn", "all", alls["mkldnn"])
    put("mkldnn", "matmul", products["mkldnn"])
    rounded = "medium" if get("mkldnn", "matmul") == "bf16" else "high"
    torch.set_float32_matmul_precision(rounded if allowed else "highest")  # sets both backends, too
    put("mkldnn", "matmul", products["mkldnn"])
    others = {}
    for backend, value in {"cuda": "tf32"}.items() if allowed else dict.fromkeys(backends, "ieee").items():
        put(backend, "all", value)
        put(backend, "matmul", value)
        for operation in ("conv", "rnn"):
            own = get(backend, operation)
            if own != value:  # it does not follow
                others[backend, operation] = own
                put(backend, operation, value)

    def restore() -> None:
        for (backend, operation), value in others.items():
            put(backend, operation, value)
        torch.set_float32_matmul_precision(older)
        for backend in backends:
            put(backend, "all", alls[backend])
            put(backend, "matmul", products[backend])

    return restore


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
