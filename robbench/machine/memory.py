"""Memory: how many images fit into a batch, what running out of it looks like, and an allocator that keeps its pages."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from robbench.errors import RobbenchError

LARGEST_BATCH = {"cpu": 256, "cuda": 4096}
"""Images attacked at once where memory does not say less.

On the CPU measured, on two cores: a quarter of it is 7 to 26 % slower, twice as many gain 6 to 16 % for twice the memory
(``suites/perf/test_choices.py``, cnn7 and relu_4_1024). On CUDA a guess that fills any device.
"""

_SHARE = 0.5
"""Of the free memory that a batch may take, by the estimate below."""

_NO_MEMORY = ("allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What torch's CPU allocator, CUDA and its libraries say, in errors that have no type of their own."""

_PERHAPS_NO_MEMORY = ("unable to find an engine", "valid cuDNN algorithm", "CUBLAS_STATUS_NOT_INITIALIZED")
"""What cuDNN and cuBLAS say where there is no memory for their workspaces, and for other reasons."""

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_TOP_PAD = 2**17
"""What the heap grows by at least, unless told otherwise."""
_PIECE, _MOST_PIECES = 2**24, 64
"""Bytes that are allocated to make the heap grow, and how often."""
_MADV_HUGEPAGE = 14
_NEVER = 2**31 - 1
_OVERCOMMIT = Path("/proc/sys/vm/overcommit_memory")
"""2 where the system promises no more memory than there is: addresses count, in use or not."""


def attack_batch(model: nn.Module, images: Tensor) -> int:
    """How many images to attack at once: the device's largest useful batch, or fewer where free memory says so.

    Args:
        model: in the mode of the attack.
        images: (N, C, H, W) floats, at least one, on the model's device.
    """
    largest = LARGEST_BATCH.get(images.device.type, 256)
    # Beside what is saved for the backward pass, about as much lives in gradients and in the attack's own tensors.
    needed = 3 * (_saved_bytes(model, images[:1]) + 8 * images[0].numel() * 4)
    return max(1, min(largest, int(free_bytes(images.device) * _SHARE / needed)))


def _saved_bytes(model: nn.Module, images: Tensor) -> int:
    """Bytes that the forward pass keeps for the backward pass, parameters not counted."""
    own = {parameter.data_ptr() for parameter in model.parameters()}
    seen: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        place = id(tensor) if tensor.is_mkldnn else tensor.data_ptr()  # oneDNN's own tensors do not say where they lie
        if place not in own:
            seen[place] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        model(images.detach().requires_grad_())
    return sum(seen.values())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device, or that its caches would give up, in bytes.

    Where only deterministic algorithms are allowed, all of the device's: what is free changes from run to run, and
    with it the batches, and with them the rounding.
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


def ran_out(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whichever device, or is what a lack of it may look like."""
    return _surely(error) or _says(error, _PERHAPS_NO_MEMORY)


def _surely(error: BaseException) -> bool:
    return isinstance(error, torch.cuda.OutOfMemoryError | MemoryError) or _says(error, _NO_MEMORY)


def _says(error: BaseException, phrases: tuple[str, ...]) -> bool:
    return isinstance(error, RuntimeError) and any(words in str(error) for words in phrases)


def named(error: BaseException) -> str:
    """What to call an error that ``ran_out`` recognises: with what it says where it may mean something else."""
    first = str(error).partition("\n")[0]
    return "out of memory" if _surely(error) else f"perhaps out of memory ({first})"


def halved(size: int, error: Exception, device: torch.device) -> int:
    """Half the batch after memory ran out.

    Raises:
        RobbenchError: not even a batch of one image fits; where memory may not be the reason, with what the error says.
        Exception: the error itself, where it says something else.
    """
    if not ran_out(error):
        raise error
    if size == 1:
        raise RobbenchError(
            f"{named(error)}: not even one image at a time fits on {device.type}; free memory there, or use another "
            "device (--robbench-device)"
        ) from error
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return size // 2


@dataclass
class Batches:
    """Batches whose size changes no result: half as large from where memory runs out, with a note for the record."""

    what: str
    """What is done in them, for the note."""
    size: int
    """Images in one, at most."""
    notes: list[str] = field(default_factory=list)

    def over(self, images: int, device: torch.device, work: Callable[[slice], None], start: int = 0) -> None:
        """Call ``work`` for consecutive parts of so many images; one that runs out of memory must leave nothing behind.

        Raises:
            RobbenchError: not even one image fits.
        """
        while start < images:
            end = min(start + self.size, images)
            try:
                work(slice(start, end))
            except (RuntimeError, MemoryError) as error:
                self.size = halved(end - start, error, device)
                note = f"out of memory: {self.what} went on with batches of {self.size} images"
                if note not in self.notes:
                    self.notes.append(note)
                continue
            start = end


@contextmanager
def indivisible(what: str, remedy: str) -> Iterator[None]:
    """Work that would have another result in smaller batches: where memory runs out, one sentence says what to do.

    Raises:
        RobbenchError: memory ran out, or may have; then with what the error says.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not ran_out(error):
            raise
        raise RobbenchError(f"{named(error)}: {what}; {remedy}") from error


def keep_pages() -> bool:
    """Let glibc keep freed memory for the next allocation instead of handing every large tensor's pages back.

    A network's activations are allocated and freed in every step; without this the system clears their pages anew each
    time. They also lie in large pages, where the system has these on request, for the first GiB: attack steps go
    over more memory than small pages' addresses fit in the processor's tables. No result changes; the process keeps the
    most memory that it ever used. Says whether it took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return False
    mapped = mallopt(_M_MMAP_THRESHOLD, 2**30) or mallopt(_M_MMAP_THRESHOLD, 2**25)  # older ones take no more
    kept = bool(mallopt(_M_TRIM_THRESHOLD, _NEVER) and mapped)
    if kept:
        _ask_for_large_pages()
    return kept


@cache
def _ask_for_large_pages() -> None:
    """Let the heap grow by a GiB of addresses at once, none of it in use, and say that large pages are welcome there.

    Once in a process. A system without them goes on as it is, and so does one where addresses are limited, for this
    process or for all.
    """
    import resource  # of Unix alone

    if any(resource.getrlimit(of)[0] != resource.RLIM_INFINITY for of in (resource.RLIMIT_AS, resource.RLIMIT_DATA)):
        return
    with suppress(OSError):
        if _OVERCOMMIT.read_text().strip() == "2":
            return
    library = ctypes.CDLL(None)
    library.malloc.argtypes, library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    library.free.argtypes, library.free.restype = [ctypes.c_void_p], None
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    library.sbrk.argtypes, library.sbrk.restype = [ctypes.c_ssize_t], ctypes.c_void_p
    library.mallopt(_M_TOP_PAD, 2**30)
    pieces: list[int | None] = []
    end = library.sbrk(0)
    while library.sbrk(0) == end and len(pieces) < _MOST_PIECES:  # what was freed before may hold some
        pieces.append(library.malloc(_PIECE))
    for piece in pieces:
        library.free(piece)
    library.mallopt(_M_TOP_PAD, _TOP_PAD)
    with suppress(OSError):
        for line in Path("/proc/self/maps").read_text(errors="replace").splitlines():
            if line.endswith("[heap]"):
                begin, end = (int(address, 16) for address in line.partition(" ")[0].split("-"))
                library.madvise(begin, end - begin, _MADV_HUGEPAGE)
