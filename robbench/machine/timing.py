"""Durations of regions of a stage, and how long threads waited for a core."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import torch

from robbench.record import Seconds

_MEASURED = ("training", "estimation")
"""Regions whose seconds are compared with a baseline."""

_THREADS = Path("/proc/self/task")


def waiting_for_core() -> dict[str, float]:
    """Seconds that each thread of this process waited for a core, by its number; empty where the system does not count.

    Linux does: second field of ``/proc/self/task/*/schedstat``.
    """
    found = {}
    for path in _THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # the thread has just ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


class Stopwatch:
    """Adds up the seconds of named regions, and how long threads waited for a core in those that are compared."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = Counter[str]()
        self._running: tuple[str, Callable[[], dict[str, float]]] | None = None

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time a block, on a GPU up to its last kernel; ``name`` is one of :class:`robbench.record.Seconds`.

        A region within another one stops the other's clock. Where one ends in an error, what it timed last is not counted.
        """
        outer, self._seconds = self._running, self._so_far()
        self._running = name, self._start(name)
        try:
            yield
            self._seconds = self._so_far()
        finally:
            self._running = None if outer is None else (outer[0], self._start(outer[0]))

    @contextmanager
    def waiting_for_data(self) -> Iterator[None]:
        """Time a block within a region in which the stage waits for images; its seconds stay part of the region's."""
        begun = time.perf_counter()
        yield
        self._seconds.update({"waiting_for_data": time.perf_counter() - begun})

    def _so_far(self) -> Counter[str]:
        """What was measured so far, in the running region as well."""
        found = self._seconds.copy()
        if self._running is not None:
            found.update(self._running[1]())
        return found

    def _start(self, name: str) -> Callable[[], dict[str, float]]:
        """Start a region; returns a function that tells the seconds since then, by field."""
        measured = name in _MEASURED
        before = waiting_for_core() if measured else {}
        clock = self._clock()

        def so_far() -> dict[str, float]:
            seconds, after = clock(), waiting_for_core() if measured else {}
            waited = [total - before.get(thread, 0.0) for thread, total in after.items()]
            return {name: seconds, "waiting_for_core": max(waited, default=0.0)}  # of the thread that waited longest

        return so_far

    def _clock(self) -> Callable[[], float]:
        """Start a clock; returns a function that tells the seconds since then."""
        if self._device.type != "cuda":
            begun = time.perf_counter()
            return lambda: time.perf_counter() - begun
        with torch.cuda.device(self._device):
            start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
            start.record()

        def elapsed() -> float:
            with torch.cuda.device(self._device):
                end = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
                end.record()
                end.synchronize()
            return float(start.elapsed_time(end)) / 1000

        return elapsed

    def add(self, seconds: Seconds) -> None:
        """Add what an interrupted run measured."""
        self._seconds.update(msgspec.structs.asdict(seconds))

    @property
    def seconds(self) -> Seconds:
        """What was measured so far, in the running region as well."""
        found = self._so_far()
        return Seconds(**{name: round(found[name], 6) for name in Seconds.__struct_fields__})
