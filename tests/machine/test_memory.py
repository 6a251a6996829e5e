"""Memory: batches follow what is free, and running out is recognised on every device."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import robbench.machine.memory
from robbench.errors import RobbenchError
from robbench.machine.determinism import deterministic_algorithms
from robbench.machine.memory import LARGEST_BATCH, Batches, attack_batch, must_fit_whole, ran_out

IMAGES = torch.rand(3, 1, 8, 8)


def network(width=4):
    """A convolution, ReLU and a linear layer, in eval mode."""
    return nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(64 * width, 10)).eval()


def free(monkeypatch, amount):
    """Let the device have that many bytes free."""
    monkeypatch.setattr(robbench.machine.memory, "free_bytes", lambda device: amount)


def test_with_much_free_memory_a_batch_is_the_largest_useful_one(monkeypatch):
    """A terabyte is more than a small network's largest batch needs."""
    free(monkeypatch, 2**40)
    assert attack_batch(network(), IMAGES) == LARGEST_BATCH["cpu"] == 256
    monkeypatch.setitem(LARGEST_BATCH, "cpu", 7)
    assert attack_batch(network(), IMAGES) == 7


@pytest.mark.parametrize("amount", [0, 1, 1000])
def test_a_batch_holds_at_least_one_image(monkeypatch, amount):
    """However little is free, one image is tried."""
    free(monkeypatch, amount)
    assert attack_batch(network(), IMAGES) == 1


def test_a_batch_shrinks_in_proportion_to_the_free_memory(monkeypatch):
    """Half of what is free, divided by three times what one image saves and eight copies of it."""
    monkeypatch.setitem(LARGEST_BATCH, "cpu", 10**9)
    image = 64 * 4
    saved = image + 4 * image  # the image for the convolution; its output after ReLU, for ReLU and the linear layer
    for batch in (1, 10, 1000):
        free(monkeypatch, 2 * batch * 3 * (saved + 8 * image))
        assert attack_batch(network(), IMAGES) == batch
        free(monkeypatch, 2 * batch * 3 * (saved + 8 * image) - 1)
        assert attack_batch(network(), IMAGES) == max(1, batch - 1)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9))
def test_what_is_saved_grows_with_the_images_alone(count, width):
    """Every image saves its pixels and its features once; the parameters, saved too, are not counted."""
    images = torch.rand(count, 1, 8, 8)
    assert robbench.machine.memory._saved_bytes(network(width), images) == count * (1 + width) * 64 * 4
    assert not images.requires_grad


def test_parameters_are_not_counted():
    """A linear layer of a megabyte saves the image; its weight, saved for the gradient, is there anyway."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4096))
    assert robbench.machine.memory._saved_bytes(model, IMAGES) == 3 * 64 * 4
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert robbench.machine.memory._saved_bytes(model, IMAGES) == 0
    with torch.no_grad():
        assert robbench.machine.memory._saved_bytes(network(), IMAGES) == 3 * 5 * 64 * 4


def test_free_memory_is_told_in_bytes(monkeypatch):
    """What Linux calls available, caches included; 8 GiB on a system that does not say."""
    device = torch.device("cpu")
    told = "MemTotal:       16000 kB\nMemFree:         1000 kB\nMemAvailable:    4000 kB\n"
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: told)
    assert robbench.machine.memory.free_bytes(device) == 4_096_000
    with deterministic_algorithms():  # what is free changes from run to run
        assert robbench.machine.memory.free_bytes(device) == 16_384_000
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: "nothing known")
    assert robbench.machine.memory.free_bytes(device) == 8 * 2**30


def test_running_out_is_recognised_on_every_device():
    """CUDA's own error, Python's, and what torch's CPU allocator really says about four petabytes."""
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**50)
    assert type(caught.value) is RuntimeError
    assert ran_out(caught.value)
    assert ran_out(torch.cuda.OutOfMemoryError("CUDA out of memory"))
    assert ran_out(MemoryError())
    assert ran_out(RuntimeError("CUDA error: out of memory"))
    assert ran_out(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"))


UNCERTAIN = [
    "GET was unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm to run convolution",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`",
]
"""What a lack of memory for a workspace looks like, among other things."""


@pytest.mark.parametrize("message", UNCERTAIN)
def test_what_may_be_a_lack_of_memory_is_tried_with_less_and_told_as_it_came(message):
    """Batches are halved down to one image; an error that ends the work claims no more than is known."""
    error = RuntimeError(f"{message}\nand a stack of C++")
    assert ran_out(error)
    sizes, batches = [], Batches("p*", 8)

    def work(part):
        sizes.append(part.stop - part.start)
        raise error

    told = re.escape(f"perhaps out of memory ({message}): ")
    with pytest.raises(RobbenchError, match=f"^{told}not even one image at a time fits on cpu") as caught:
        batches.over(8, torch.device("cpu"), work)
    assert sizes == [8, 4, 2, 1]
    assert caught.value.__cause__ is error
    with pytest.raises(RobbenchError, match=f"^{told}an update does not fit; make it smaller$"):  # noqa: SIM117
        with must_fit_whole("an update does not fit", "make it smaller"):
            raise error


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        ValueError("can't allocate memory"),
        ValueError("unable to find an engine"),
        KeyboardInterrupt(),
        OSError(12, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is(error):
    """Errors that a smaller batch does not mend are not taken for it."""
    assert not ran_out(error)
