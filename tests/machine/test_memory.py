"""Memory: batches follow what is free, and running out is recognised on every device."""

from __future__ import annotations

import re
import weakref
from pathlib import Path

import pytest
import torch
from hypothesis import given
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


def test_a_batch_follows_the_free_memory(monkeypatch):
    """Half of what is free, divided by three times what one image saves and eight copies of it; from one to the largest."""
    free(monkeypatch, 2**40)
    assert attack_batch(network(), IMAGES) == LARGEST_BATCH["cpu"] == 256
    monkeypatch.setitem(LARGEST_BATCH, "cpu", 10**9)
    image = 64 * 4
    saved = image + 4 * image  # the image for the convolution; its output after ReLU, for ReLU and the linear layer
    for batch in (1, 10, 1000):
        free(monkeypatch, 2 * batch * 3 * (saved + 8 * image))
        assert attack_batch(network(), IMAGES) == batch
        free(monkeypatch, 2 * batch * 3 * (saved + 8 * image) - 1)
        assert attack_batch(network(), IMAGES) == max(1, batch - 1)


@given(st.integers(1, 40), st.integers(1, 9))
def test_what_is_saved_grows_with_the_images_alone(count, width):
    """Every image saves its pixels and its features once; the parameters, saved too, are not counted."""
    images = torch.rand(count, 1, 8, 8)
    with torch.no_grad():
        assert robbench.machine.memory._saved_bytes(network(width), images) == count * (1 + width) * 64 * 4
    assert not images.requires_grad


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


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "out of memory"),
        (MemoryError(), "out of memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "out of memory"),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), None),
        (ValueError("can't allocate memory"), None),
        (OSError(12, "Cannot allocate memory"), None),
    ],
    ids=str,
)
def test_running_out_is_recognised(error, expected):
    """CUDA's own error, Python's, and what libraries write; no error that a smaller batch does not mend."""
    assert ran_out(error) == expected


def test_what_may_be_a_lack_of_memory_is_tried_with_less_and_told_as_it_came():
    """Batches are halved down to one image; an error that ends the work claims no more than is known."""
    message = "GET was unable to find an engine to execute this computation"
    error = RuntimeError(f"{message}\nand a stack of C++")
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


def test_memory_is_given_back_once_the_error_holds_the_tensors_that_failed_no_more(monkeypatch):
    """Its traceback keeps every frame, and with it the activations of the batch that was too large."""
    held, gone = [], []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: gone.append(held.pop()() is None))

    def work(part):
        activations = torch.zeros(part.stop - part.start)
        if len(activations) > 2:
            held.append(weakref.ref(activations))
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    Batches("p*", 8).over(8, torch.device("cuda"), work)
    assert gone == [True, True]
