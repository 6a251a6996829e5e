"""Measuring durations: CUDA events on a GPU, ``perf_counter`` elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from robbench.errors import unknown
from robbench.record import Seconds


class Stopwatch:
    """Adds up the seconds of named regions: the fields of :class:`robbench.record.Seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds = dict.fromkeys(Seconds.__struct_fields__, 0.0)
        self._running: dict[str, Callable[[], float]] = {}

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time a block; on a GPU from the first kernel to the last, with one synchronisation at its end.

        Raises:
            RobbenchError: ``name`` is no field of Seconds.
        """
        if name not in self._seconds:
            raise unknown("region", name, self._seconds)
        self._running[name] = elapsed = self._start()
        try:
            yield
            self._seconds[name] += elapsed()
        finally:
            del self._running[name]

    def _start(self) -> Callable[[], float]:
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

    def add(self, seconds: Seconds) -> None:
        """Count what an interrupted run had measured already."""
        for name in self._seconds:
            self._seconds[name] += getattr(seconds, name)

    @property
    def seconds(self) -> Seconds:
        """What was measured so far, regions that are still running included."""
        running = {name: elapsed() for name, elapsed in self._running.items()}
        return Seconds(**{name: round(value + running.get(name, 0.0), 6) for name, value in self._seconds.items()})
