"""Precision: float32 where it counts, TF32 where it is allowed, and the user's switches as they were."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robbench.machine.precision
from robbench.attacks import is_counterexample
from robbench.machine.precision import full_precision, matmul_precision, rounds_convolutions, tensor_cores

CPU = torch.device("cpu")
NEWER = hasattr(torch.backends.cudnn, "conv")
newer = pytest.mark.skipif(not NEWER, reason="needs the fp32_precision switches of torch 2.9")


def operations():
    """The newer switches, those of CUDA first."""
    cuda = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn
    return *cuda, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv, torch.backends.mkldnn.rnn


def switches():
    """What the newer switches come to, and what the older one of products says."""
    try:
        older = torch.get_float32_matmul_precision()
    except RuntimeError:
        older = None
    return [older, *(switch.fp32_precision for switch in (operations() if NEWER else ()))]


@pytest.fixture(autouse=True)
def untouched():
    """Every switch has its default again after a test."""
    before = switches()[1:]
    yield
    torch.set_float32_matmul_precision("highest")
    if NEWER:
        torch.backends.fp32_precision = torch.backends.cudnn.fp32_precision = "none"
        for switch, value in zip(operations(), before, strict=True):
            switch.fp32_precision = value


def older_medium():
    """The older API's way to bfloat16 on the CPU and TF32 on CUDA."""
    torch.set_float32_matmul_precision("medium")


def older_tf32():
    """The older API's way to TF32 on CUDA alone."""
    torch.backends.cuda.matmul.allow_tf32 = True


def newer_onednn():
    """BFloat16 on the CPU, by the newer switches."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


@pytest.fixture(params=[lambda: None, older_medium, older_tf32, pytest.param(newer_onednn, marks=newer)])
def way(request):
    """The switches are set in one of the ways that users have."""
    request.param()


def relative_error(function, *factors):
    """Of a function of float32 tensors, to the same in float64: the largest deviation over the largest value."""
    exact = function(*(factor.double() for factor in factors))
    return ((function(*factors).double() - exact).abs().max() / exact.abs().max()).item()


def errors():
    """Of a product and of a convolution that oneDNN would round where it may."""
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(2, 256, 256, generator=generator).unbind()
    images = torch.randn(8, 16, 16, 16, generator=generator)
    kernels = torch.randn(32, 16, 3, 3, generator=generator)
    return relative_error(torch.mm, left, right), relative_error(F.conv2d, images, kernels)


def test_full_precision_is_that_of_float32_whatever_was_set(way):
    """A product and a convolution are off by float32's rounding alone, within autocast, too; elsewhere all is as before."""
    outside = errors()
    with full_precision(CPU):
        assert max(errors()) < 2e-6
        with tensor_cores(), full_precision(CPU), torch.autocast("cpu", torch.bfloat16), full_precision(CPU):
            assert max(errors()) < 2e-6
        assert max(errors()) < 2e-6
    with tensor_cores():
        assert errors() == outside
    assert errors() == outside


def test_every_switch_is_as_it_was_afterwards(way):
    """Also after nested contexts and an error."""
    before = switches()
    with suppress(ZeroDivisionError), full_precision(CPU):
        with tensor_cores():
            inside = switches()
            with tensor_cores(False), tensor_cores():
                pass
            assert switches() == inside
        raise ZeroDivisionError
    assert switches() == before


def test_inside_both_kinds_of_switches_say_what_was_asked_for(way):
    """On CUDA TF32 or not, on the CPU float32 or what it was set to; torch.compile reads the older switch of products."""
    onednn = switches()[4:]
    with tensor_cores():
        assert rounds_convolutions()
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() in ("high", "medium")
        if NEWER:
            assert switches()[1:] == ["tf32"] * 3 + onednn
        with tensor_cores(False):
            assert not rounds_convolutions()
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == matmul_precision() == "highest"
            assert set(switches()[1:]) <= {"ieee"}


def test_the_precision_of_products_is_torchs_name_or_what_each_backend_does():
    """Where the older API has no name for what is set, it says so for each backend."""
    for name in ("high", "medium", "highest"):
        torch.set_float32_matmul_precision(name)
        assert matmul_precision() == name
    if NEWER:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        assert matmul_precision() == "cuda tf32, mkldnn ieee"


def test_a_counterexample_is_confirmed_in_float32_although_bfloat16_is_asked_for():
    """In bfloat16 all logits are the same, and the first class is named; in float32 the second has the margin."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1024, 64, bias=False)).eval()
    with torch.no_grad():
        model[1].weight.fill_(1.0)
        model[1].weight[1] += 2.0**-11  # lost in bfloat16, which has eight bits
    images, labels = torch.ones(64, 1, 32, 32), torch.ones(64, dtype=torch.int64)
    older_medium()
    with torch.no_grad():
        if (model(images).argmax(dim=1) == 1).any():
            pytest.skip("this processor's oneDNN does not round products to bfloat16")
    assert not is_counterexample(model, images, images, labels, torch.full((64,), 0.1)).any()


def test_torch_without_the_newer_switches_is_served_by_the_older_ones(monkeypatch):
    """As up to 2.8: on, off, and back, and "medium" stays where rounding is allowed."""
    monkeypatch.setattr(robbench.machine.precision, "_PER_OPERATION", False)
    for name in ("highest", "high", "medium"):
        torch.set_float32_matmul_precision(name)
        with tensor_cores():
            assert matmul_precision() == ("high" if name == "highest" else name)
            assert rounds_convolutions()
            with full_precision(CPU):
                assert matmul_precision() == "highest"
                assert not rounds_convolutions()
                assert errors()[0] < 2e-6
            assert rounds_convolutions()
        assert matmul_precision() == name
        assert rounds_convolutions()
