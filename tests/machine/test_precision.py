"""Precision: float32 where it counts, TF32 where it is allowed, and the user's switches as they were, whichever they used."""

from __future__ import annotations

import itertools
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import robbench.machine.precision
from robbench.attacks import is_counterexample
from robbench.machine.environment import environment
from robbench.machine.precision import full_precision, matmul_precision, rounds_convolutions, tensor_cores

CPU = torch.device("cpu")
BACKENDS, OPERATIONS = ("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn")

newer = pytest.mark.skipif(
    not hasattr(torch._C, "_set_fp32_precision_setter"), reason="needs the fp32_precision switches of torch 2.9"
)


def put(backend, operation, value):
    """Set one of the newer switches."""
    torch._C._set_fp32_precision_setter(backend, operation, value)


def get(backend, operation):
    """What one of the newer switches comes to."""
    return torch._C._get_fp32_precision_getter(backend, operation)


def older():
    """The older switches: their values, None where they cannot be read."""
    found = []
    for read in (
        torch.get_float32_matmul_precision,
        lambda: torch.backends.cuda.matmul.allow_tf32,
        lambda: torch.backends.cudnn.allow_tf32,
    ):
        try:
            found.append(read())
        except RuntimeError:
            found.append(None)
    return found


def switches():
    """All that can be observed of them, also after the general ones are changed."""
    found = [older()]
    if not robbench.machine.precision._PER_OPERATION:
        return found
    generic = get("generic", "all")
    alls = [get(backend, "all") for backend in BACKENDS]
    for value in (generic, "none", "ieee", "tf32"):
        put("generic", "all", value)
        found.append([get(backend, operation) for backend in BACKENDS for operation in OPERATIONS])
    put("generic", "all", generic)
    return [*found, generic, alls]


@pytest.fixture(autouse=True)
def untouched():
    """Every switch back to torch's default after a test; those of cuDNN, whose default cannot be set, to its value."""
    yield
    torch.set_float32_matmul_precision("highest")
    if robbench.machine.precision._PER_OPERATION:
        put("generic", "all", "none")
        for backend, operation in itertools.product(BACKENDS, ("all", "matmul")):
            put(backend, operation, "none")
        for operation in ("conv", "rnn"):
            put("mkldnn", operation, "none")
            if get("cuda", operation) != "tf32":
                put("cuda", operation, "tf32")


def older_medium():
    """The older API's way to bfloat16 on the CPU and TF32 on CUDA."""
    torch.set_float32_matmul_precision("medium")


def older_tf32():
    """The older API's way to TF32 on CUDA alone."""
    torch.backends.cuda.matmul.allow_tf32 = True


def newer_everything():
    """What newer versions of transformers do."""
    torch.backends.fp32_precision = "tf32"


def newer_product():
    """One of the newer switches, which the older ones do not see."""
    torch.backends.cuda.matmul.fp32_precision = "tf32"


def newer_onednn():
    """BFloat16 on the CPU, by the newer switches."""
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    torch.backends.mkldnn.conv.fp32_precision = "bf16"


def newer_backends():
    """A general switch of one backend, and one operation that differs from it."""
    torch.backends.cudnn.fp32_precision = "ieee"
    torch.backends.cudnn.conv.fp32_precision = "tf32"
    put("mkldnn", "all", "bf16")


ALONE = [
    pytest.param((older_medium,), id="older-medium"),
    pytest.param((older_tf32,), id="older-tf32"),
    *(
        pytest.param((way,), id=way.__name__.replace("_", "-"), marks=newer)
        for way in (newer_everything, newer_product, newer_onednn, newer_backends)
    ),
]
WAYS = [
    pytest.param((), id="default"),
    *ALONE,
    *(
        pytest.param(order, id="-then-".join(way.__name__ for way in order), marks=newer)
        for pair in itertools.product((older_medium, older_tf32), (newer_everything, newer_product, newer_onednn))
        for order in (pair, pair[::-1])
    ),
]


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


@pytest.mark.parametrize("ways", WAYS)
def test_full_precision_is_that_of_float32_whatever_was_set(ways):
    """A product and a convolution inside are off by float32's rounding alone, in nested contexts too."""
    for way in ways:
        way()
    with full_precision(CPU):
        assert max(errors()) < 2e-6
        with tensor_cores(), full_precision(CPU):
            assert max(errors()) < 2e-6
        assert max(errors()) < 2e-6


@newer
@pytest.mark.parametrize("ways", [(older_medium,), (newer_onednn,)], ids=["older", "newer"])
def test_the_cpu_rounds_as_it_was_told_to_outside_and_while_training(ways):
    """What is measured above is no rounding of a processor that could not do otherwise."""
    for way in ways:
        way()
    outside = errors()
    if outside[0] < 1e-4:
        pytest.skip("this processor's oneDNN does not round products to bfloat16")
    with tensor_cores():
        assert errors() == outside
    with full_precision(CPU):
        assert errors()[0] < 2e-6
    assert errors() == outside


@pytest.mark.parametrize("ways", WAYS)
def test_every_switch_is_as_it_was_afterwards(ways):
    """Also after nested contexts and an error; and what followed a general switch still does."""
    for way in ways:
        way()
    before = switches()
    with tensor_cores():
        pass
    assert switches() == before
    with suppress(ZeroDivisionError), full_precision(CPU):
        with tensor_cores():
            inside = switches()
            with tensor_cores(False), tensor_cores():
                pass
            assert switches() == inside
        raise ZeroDivisionError
    assert switches() == before


@pytest.mark.parametrize("ways", WAYS)
def test_inside_tensor_cores_are_on_or_off_and_both_apis_agree(ways):
    """Products can be asked about by the older switches, as torch.compile does, whatever was set before."""
    for way in ways:
        way()
    with tensor_cores():
        assert rounds_convolutions()
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.get_float32_matmul_precision() in ("high", "medium")
        with tensor_cores(False):
            assert not rounds_convolutions()
            assert not torch.backends.cuda.matmul.allow_tf32
            assert torch.get_float32_matmul_precision() == matmul_precision() == "highest"
        assert rounds_convolutions()
        assert torch.backends.cuda.matmul.allow_tf32


@newer
@pytest.mark.parametrize("ways", WAYS)
def test_every_operation_is_what_was_asked_for_inside(ways):
    """On CUDA TF32 or not; on the CPU float32 or what it was set to."""
    for way in ways:
        way()
    onednn = [get("mkldnn", operation) for operation in OPERATIONS]
    with tensor_cores():
        assert [get("cuda", operation) for operation in OPERATIONS] == ["tf32"] * 4
        assert [get("mkldnn", operation) for operation in OPERATIONS] == onednn
    with tensor_cores(False):
        assert {get(backend, operation) for backend in BACKENDS for operation in OPERATIONS} == {"ieee"}


@pytest.mark.parametrize("ways", WAYS)
@pytest.mark.parametrize("context", [None, tensor_cores, lambda: tensor_cores(False)], ids=["outside", "on", "off"])
def test_an_environment_can_be_written_down_whatever_was_set(ways, context):
    """It says how products are computed, and never raises."""
    for way in ways:
        way()
    if context is None:
        found = environment(CPU)
    else:
        with context():
            found = environment(CPU)
    assert found.tf32 is None
    assert found.matmul_precision


@newer
def test_the_precision_of_products_has_torchs_name_or_says_what_each_backend_does():
    """The older API's names where they fit what is set, by whichever API."""
    assert matmul_precision() == "highest"
    for name in ("high", "medium", "highest"):
        torch.set_float32_matmul_precision(name)
        assert matmul_precision() == name
    newer_product()
    assert matmul_precision() == "cuda tf32, mkldnn ieee"
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    assert matmul_precision() == "medium"


def test_full_precision_leaves_autocast():
    """Inside, a product is float32 although autocast is on outside."""
    ones = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        assert (ones @ ones).dtype == torch.bfloat16
        with full_precision(CPU):
            assert (ones @ ones).dtype == torch.float32


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
