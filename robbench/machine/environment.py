"""Where a stage runs: the device, the versions, and the slug that names the kind of machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path

import msgspec
import torch

from robbench.errors import RobbenchError, unknown
from robbench.machine.precision import matmul_precision, rounds_convolutions
from robbench.record import Environment

DEVICES = ("auto", "cpu", "cuda")


def choose_device(name: str, workers: int = 1) -> torch.device:
    """The device of ``--robbench-device``; ``auto`` is the first CUDA device if there is one.

    Raises:
        RobbenchError: the name is unknown, there is no CUDA device for ``cuda``, or several workers would share one.
    """
    if name not in DEVICES:
        raise unknown("device", name, DEVICES)
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise RobbenchError("device: expected a CUDA device for --robbench-device cuda, this machine has none")
    if not available or name == "cpu":
        return torch.device("cpu")
    if workers > 1:
        raise RobbenchError(
            f"device: expected one process for a CUDA device, got {workers} workers of pytest-xdist; for a process on each "
            f"device use --robbench-workers {torch.cuda.device_count()}, or -n with --robbench-device cpu"
        )
    device = torch.device("cuda", 0)
    torch.cuda.set_device(device)
    return device


@contextmanager
def share_of_threads(workers: int) -> Iterator[None]:
    """Compute with this worker's share of torch's threads, unless ``OMP_NUM_THREADS`` says with how many.

    Workers that each take all cores wait for one another at the end of every operation.
    """
    before = torch.get_num_threads()
    if workers > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, before // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def environment(device: torch.device) -> Environment:
    """The machine, the versions and torch's switches behind a figure."""
    cuda = device.type == "cuda"
    constant, deterministic = _constant(device), torch.are_deterministic_algorithms_enabled()
    threads = torch.get_num_threads()
    slug = constant.slug if cuda or threads == constant.cores else f"{constant.slug}-{threads}thread"
    return msgspec.structs.replace(
        constant,
        slug=f"{slug}-deterministic" if deterministic else slug,
        threads=threads,
        tf32=rounds_convolutions() if cuda else None,
        deterministic=deterministic,
        matmul_precision=matmul_precision(),
        cudnn_benchmark=torch.backends.cudnn.benchmark if cuda else None,
    )


def multiplies_in_tf32(device: torch.device) -> bool | None:
    """Whether the device can compute float32 products in TF32; None without CUDA."""
    if device.type != "cuda":
        return None
    return torch.version.cuda is not None and torch.cuda.get_device_capability(device) >= (8, 0)


@cache
def _constant(device: torch.device) -> Environment:
    """What does not change while the process runs."""
    cuda = device.type == "cuda"
    cpu, cores = _cpu_name(), len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    name = torch.cuda.get_device_name(device) if cuda else cpu
    driver = _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if cuda else None
    changes = _output("git", "status", "--porcelain")
    return Environment(
        slug=_slug(name) if cuda else f"cpu-{cores}core-{_slug(cpu)}",
        device=name,
        cpu=cpu,
        cores=cores,
        threads=torch.get_num_threads(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        robbench=version("robbench"),
        torch=str(torch.__version__),
        torchvision=version("torchvision"),
        cuda=torch.version.cuda if cuda else None,
        cudnn=str(torch.backends.cudnn.version()) if cuda else None,  # type: ignore[no-untyped-call]
        driver=driver.partition("\n")[0] if driver else None,  # a line for each GPU
        commit=_output("git", "rev-parse", "HEAD"),
        host=platform.node() or None,
        dirty=None if changes is None else bool(changes),
    )


def _cpu_name() -> str:
    found = None
    with suppress(OSError):
        found = re.search(r"^model name\s*:(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine() or "unknown processor"


def _slug(name: str) -> str:
    plain = re.sub(r"\((R|TM)\)|\bCPU\b|\bProcessor\b|@.*", " ", name, flags=re.IGNORECASE)
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def _output(*command: str) -> str | None:
    """What the command prints; None where there is no such command, or it fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
