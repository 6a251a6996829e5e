"""Measuring durations: CUDA events on a GPU, ``perf_counter`` elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from robbench.errors import unknown
from robbench.record import Seconds


class Stopwatch:
    """Adds up the seconds of named regions: the fields of :class:`robbench.record.Seconds`."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._device = device
        self._seconds = dict.fromkeys(Seconds.__struct_fields__, 0.0)

    @contextmanager
    def region(self, name: str) -> Iterator[None]:
        """Time a block; on a GPU from the first kernel to the last, with one synchronisation at its end.

        Raises:
            RobbenchError: ``name`` is no field of Seconds.
        """
        if name not in self._seconds:
            raise unknown("region", name, self._seconds)
        if self._cuda:
            with torch.cuda.device(self._device):
                start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
                start.record()
                yield
                end.record()
                end.synchronize()
            self._seconds[name] += start.elapsed_time(end) / 1000
        else:
            begun = time.perf_counter()
            yield
            self._seconds[name] += time.perf_counter() - begun

    def add(self, seconds: Seconds) -> None:
        """Count what an interrupted run had measured already."""
        for name in self._seconds:
            self._seconds[name] += getattr(seconds, name)

    @property
    def seconds(self) -> Seconds:
        """What was measured so far."""
        return Seconds(**{name: round(value, 6) for name, value in self._seconds.items()})
