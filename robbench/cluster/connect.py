"""A dask scheduler for a run: one that is there, or one of this machine's own with a worker for each GPU."""

from __future__ import annotations

import logging
import os
import platform
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from robbench.errors import RobbenchError, require

PATIENCE = 10.0
"""Seconds to wait for a scheduler's first answer."""

LOST = 30.0
"""Seconds to wait for a scheduler that is lost to come back: longer than a network is cut."""

OWN = {
    # Dask lets a worker hand its memory back at once: then every large tensor is of pages that are cleared anew.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.gil.enabled": False,
    "logging.distributed": "critical",
}
"""Configuration of dask for workers of a run's own: without what takes time from stages, and without its logs."""

DEATHS = 2
"""How many of its workers may die in a stage before it fails, on a scheduler of a run's own."""


def check_installed() -> None:
    """Raise a RobbenchError where dask.distributed is not installed."""
    if find_spec("distributed") is None:
        raise RobbenchError("expected dask.distributed, which is not installed; pip install 'robbench[cluster]'")


@contextmanager
def connected(address: str | None, workers: int, device: str) -> Iterator[Any]:
    """A client of the scheduler at an address, or of one of the run's own with so many workers on this machine.

    Raises:
        RobbenchError: nothing answers there, or there are more workers than GPUs.
    """
    # What a user must know of dask's troubles, robbench says.
    log = logging.getLogger("distributed")
    level = log.level
    log.setLevel(logging.CRITICAL)
    try:
        with _client(address, workers, device) as client:
            yield client
    finally:
        log.setLevel(level)


@contextmanager
def _client(address: str | None, workers: int, device: str) -> Iterator[Any]:
    import dask
    from distributed import Client

    # Weights travel with the stage that needs them.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1TB"}):
        if address is None:
            with _own(workers, device) as cluster, Client(cluster, timeout=PATIENCE, set_as_default=False) as client:
                yield client
            return
        try:
            Client(address, timeout=PATIENCE, set_as_default=False).close()  # a wrong address is not waited for so long
            client = Client(address, timeout=LOST, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            how = "expected the address of a dask scheduler that runs, such as tcp://host:8786"
            raise RobbenchError(f"--robbench-scheduler: {how}, nothing answers at {address!r}") from error
        with client:
            yield client


@contextmanager
def _own(workers: int, device: str) -> Iterator[Any]:
    import dask
    from distributed import Scheduler
    from distributed.deploy.spec import SpecCluster
    from distributed.deploy.subprocess import SubprocessWorker

    each = _environments(workers, device)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = int(os.environ.get("OMP_NUM_THREADS", max(1, cores // workers)))
    options = {"nthreads": threads, "memory_limit": 0, "host": "127.0.0.1", "silence_logs": logging.CRITICAL}
    dashboard = {"dashboard": find_spec("bokeh") is not None, "dashboard_address": "127.0.0.1:0"}
    # The processes that start the workers, and start them again, find their configuration there.
    os.environ["DASK_INTERNAL_INHERIT_CONFIG"] = dask.config.serialize(OWN)
    try:
        with (
            dask.config.set(OWN),
            SpecCluster(
                workers={
                    f"{platform.node()}-{number}": {
                        "cls": SubprocessWorker,
                        "options": {"worker_kwargs": {**options, "name": f"{platform.node()}-{number}", "env": own}},
                    }
                    for number, own in enumerate(each)
                },
                scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "allowed_failures": DEATHS, **dashboard}},
                silence_logs=logging.CRITICAL,
            ) as cluster,
        ):
            yield cluster
    finally:
        del os.environ["DASK_INTERNAL_INHERIT_CONFIG"]


def _environments(workers: int, device: str) -> list[dict[str, str]]:
    """What the environment of each worker has of its own: a GPU, where there are any."""
    import torch

    count = torch.cuda.device_count() if device != "cpu" else 0
    if count == 0:
        return [{} for _ in range(workers)]
    require(
        workers <= count,
        "--robbench-workers",
        f"at most one for each of the {count} CUDA devices, or --robbench-device cpu",
        workers,
    )
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    return [{"CUDA_VISIBLE_DEVICES": visible[number]} for number in range(workers)]


def check_versions(client: Any, mismatch: Callable[..., str | None], packages: tuple[str, ...]) -> None:
    """Raise a RobbenchError that names a worker with other versions than this process."""
    found = client.get_versions(packages=[*packages])
    names = ("python", "distributed", *packages)
    here = {name: found["client"]["packages"].get(name) for name in names}
    for address, there in {"": found["scheduler"], **found["workers"]}.items():
        which = f"worker {address}" if address else "the scheduler"
        of_interest = here if address else {name: here[name] for name in ("python", "distributed")}
        if wrong := mismatch(of_interest, there["packages"] if there else {}):
            raise RobbenchError(f"{which}: {wrong}")
