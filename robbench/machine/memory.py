"""Memory: how many images fit into a batch, and what to do when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError

LARGEST_BATCH = {"cpu": 256, "cuda": 4096}
"""Most images attacked at once, by device type (``suites/perf/test_choices.py``). On CUDA a guess that fills any device."""

_SHARE = 0.5
"""Share of the free memory that a batch may take."""

_NO_MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What torch's CPU allocator, CUDA and its libraries write when memory runs out."""

_PERHAPS_NO_MEMORY = ("unable to find an engine", "valid cuDNN algorithm", "CUBLAS_STATUS_NOT_INITIALIZED")
"""What cuDNN and cuBLAS write when there is no memory for their workspaces, but for other reasons as well."""


def attack_batch(model: nn.Module, images: Tensor) -> int:
    """How many (N, C, H, W) float images to attack at once: the largest useful batch, or as many as fit into free memory."""
    largest = LARGEST_BATCH.get(images.device.type, 256)
    # Gradients and the attack's own tensors take about as much again as what is saved for the backward pass.
    needed = 3 * (_saved_bytes(model, images[:1]) + 8 * images[0].numel() * 4)
    return max(1, min(largest, int(free_bytes(images.device) * _SHARE / needed)))


def _saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that the forward pass saves for the backward pass, without the parameters."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        address = id(tensor) if tensor.is_mkldnn else tensor.data_ptr()  # oneDNN's tensors have no address
        if address not in own:
            seen[address] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images.detach().requires_grad_())
    return sum(seen.values())


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on a device, its caches included.

    Where only deterministic algorithms are allowed, all of the device's memory: what is free differs from run to run, and
    the size of the batches and the rounding would differ with it.
    """
    whole = torch.are_deterministic_algorithms_enabled()
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        return total if whole else free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        field = "MemTotal:" if whole else "MemAvailable:"
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))
    except (OSError, ValueError, StopIteration):  # a system that does not say
        return 2**33


def ran_out(error: BaseException) -> str | None:
    """A short name for an error that says memory ran out, with its first line where that is not certain; None for others."""
    message = str(error) if isinstance(error, RuntimeError) else ""
    certain = isinstance(error, torch.cuda.OutOfMemoryError | MemoryError)
    if certain or any(words in message for words in _NO_MEMORY):
        return "out of memory"
    perhaps = any(words in message for words in _PERHAPS_NO_MEMORY)
    return f"perhaps out of memory ({message.partition(chr(10))[0]})" if perhaps else None


def halved(size: int, error: Exception, device: torch.device) -> int:
    """Half the batch after memory ran out; a RobbenchError where that was one image, and any other error again."""
    reason = ran_out(error)
    if not reason:
        raise error
    if size == 1:
        raise RobbenchError(
            f"{reason}: not even one image at a time fits on {device.type}; free memory there, or use another "
            "device (--robbench-device)"
        ) from error
    return size // 2


def release(device: torch.device) -> None:
    """Give memory that torch caches back to the device; after an except block, whose error holds the tensors that failed."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


@dataclass
class Batches:
    """Work in batches of at most ``size`` images, which changes no result; half as many when memory runs out."""

    what: str
    """The work, for the note in the record."""
    size: int
    notes: list[str] = field(default_factory=list)

    def over(self, images: int, device: torch.device, work: Callable[[slice], None]) -> None:
        """Call ``work`` for consecutive slices of the images; RobbenchError where not even one image fits."""
        start = 0
        while start < images:
            end = min(start + self.size, images)
            try:
                work(slice(start, end))
            except (RuntimeError, MemoryError) as error:
                self.size = halved(end - start, error, device)
            else:
                start = end
                continue
            release(device)
            note = f"out of memory: {self.what} went on with batches of {self.size} images"
            if note not in self.notes:
                self.notes.append(note)


@contextmanager
def must_fit_whole(what: str, remedy: str) -> Iterator[None]:
    """Turn out-of-memory into a RobbenchError (what did not fit; remedy) where smaller batches would change the result."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        reason = ran_out(error)
        if not reason:
            raise
        raise RobbenchError(f"{reason}: {what}; {remedy}") from error
