"""Measuring durations: CUDA events on a GPU, ``perf_counter`` elsewhere; and how long threads waited for a core."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from robbench.errors import unknown
from robbench.record import Seconds

_MEASURED = ("training", "estimation")
"""Regions that a stage is judged by: the parts of :attr:`robbench.record.Seconds.measured`."""

_WAITING = "waiting_for_core"

_THREADS = Path("/proc/self/task")


def waiting_for_core() -> dict[str, float]:
    """Seconds that every living thread of this process has stood in line for a core, ready to run, by its number.

    As Linux counts them (``/proc/PID/task/TID/schedstat``, second field, nanoseconds); nothing elsewhere.
    """
    found = {}
    for path in _THREADS.glob("*/schedstat"):
        with suppress(OSError, ValueError, IndexError):  # a thread that has just ended
            found[path.parent.name] = int(path.read_text().split()[1]) / 1e9
    return found


class Stopwatch:
    """Adds up the seconds of named regions, and what threads stood in line in them: :class:`robbench.record.Seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = dict.fromkeys(Seconds.__struct_fields__, 0.0)
        self._running: dict[str, Callable[[], dict[str, float]]] = {}

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time a block; on a GPU from the first kernel to the last, with one synchronisation at its end.

        Raises:
            RobbenchError: ``name`` is no region of Seconds.
        """
        if name not in self._seconds or name == _WAITING:
            raise unknown("region", name, self._seconds.keys() - {_WAITING})
        self._running[name] = so_far = self._start(name)
        try:
            yield
            self._count(so_far())
        finally:
            del self._running[name]

    def _start(self, name: str) -> Callable[[], dict[str, float]]:
        """What tells how much came to each field since now."""
        before = waiting_for_core() if name in _MEASURED else {}
        clock = self._clock()
        if name not in _MEASURED:
            return lambda: {name: clock()}

        def so_far() -> dict[str, float]:
            seconds = clock()
            longest = max(
                (waited - before.get(thread, 0.0) for thread, waited in waiting_for_core().items()), default=0.0
            )
            return {name: seconds, _WAITING: longest}

        return so_far

    def _clock(self) -> Callable[[], float]:
        """What tells the seconds since now."""
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

    def _count(self, found: Mapping[str, float]) -> None:
        for name, value in found.items():
            self._seconds[name] += value

    def add(self, seconds: Seconds) -> None:
        """Count what an interrupted run had measured already."""
        self._count({name: getattr(seconds, name) for name in self._seconds})

    @property
    def seconds(self) -> Seconds:
        """What was measured so far, regions that are still running included."""
        found = Counter(self._seconds)
        for so_far in self._running.values():
            found.update(so_far())
        return Seconds(**{name: round(found[name], 6) for name in self._seconds})
