"""Memory: batches follow what is free, running out is recognised on every device, and glibc can be told to keep pages."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import robbench.machine.memory
from robbench.errors import RobbenchError
from robbench.machine.memory import LARGEST_BATCH, Batches, attack_batch, keep_pages, must_fit_whole, ran_out

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


def test_a_wider_network_has_smaller_batches(monkeypatch):
    """Ten megabytes are enough for 256 images with 4 channels, and for 93 with 64."""
    free(monkeypatch, 10 * 2**20)
    assert attack_batch(network(4), IMAGES) == 256
    assert attack_batch(network(64), IMAGES) == 10 * 2**20 // 2 // (3 * (65 + 8) * 256)


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_glibc_keeps_its_pages():
    """It says that both thresholds were set."""
    assert keep_pages() is True


LARGE_PAGES = """
from pathlib import Path
from robbench.machine.memory import keep_pages

assert keep_pages()
heap = Path("/proc/self/smaps").read_text().partition("[heap]")[2]
print(heap.partition("VmFlags:")[2].splitlines()[0])
"""

COUNTED = """
from pathlib import Path
import robbench.machine.memory

class Strict:
    read_text = staticmethod(lambda: "2\\n")

before = Path("/proc/self/statm").read_text().split()[0]
robbench.machine.memory._OVERCOMMIT = Strict
assert robbench.machine.memory.keep_pages()
print(before, Path("/proc/self/statm").read_text().split()[0])
"""

FEW_ADDRESSES = """
import resource
import torch
from pathlib import Path
from robbench.machine.memory import keep_pages

used = lambda: int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used() + 2**32, resource.RLIM_INFINITY))
print(used())
assert keep_pages()
print(used())
"""


def in_a_process_of_its_own(code):
    """What it prints."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").is_dir() or platform.libc_ver()[0] != "glibc",
    reason="needs a Linux with transparent huge pages, and glibc",
)
def test_the_heap_asks_for_large_pages():
    """The system's flag ``hg`` says so."""
    assert "hg" in in_a_process_of_its_own(LARGE_PAGES).split()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_limit_on_addresses_leaves_the_heap_as_it_is():
    """Where each one counts, none is taken in advance."""
    before, after = in_a_process_of_its_own(FEW_ADDRESSES).split()
    assert int(after) - int(before) < 2**24


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_a_system_that_counts_addresses_as_memory_gets_none_taken_in_advance():
    """Else a few workers could use up what it promises, with no memory in use."""
    before, after = in_a_process_of_its_own(COUNTED).split()
    assert int(after) - int(before) < 2**12


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_no_other_system_is_asked_to(monkeypatch, system):
    """There, no C library is even looked at."""
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("ctypes.CDLL", None)
    assert keep_pages() is False


@pytest.mark.parametrize("library", [object(), OSError("no such library")], ids=["musl", "none"])
def test_a_library_without_that_knob_is_left_alone(monkeypatch, library):
    """Linux with another C library has no mallopt, or cannot be looked into."""

    def load(name):
        if isinstance(library, Exception):
            raise library
        return library

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr("ctypes.CDLL", load)
    assert keep_pages() is False
