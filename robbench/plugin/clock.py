"""A clock for pytest-benchmark that a stage moves by the seconds it measured itself. No torch."""

from __future__ import annotations


class Clock:
    """A timer that stands still until it is advanced: pytest-benchmark then saves what a stage measured."""

    __name__ = "stage_clock"

    def __init__(self) -> None:
        self._now = 0.0

    def advance(self, seconds: float) -> None:
        """Move the clock on."""
        self._now += seconds

    def __call__(self) -> float:
        """Seconds so far."""
        return self._now
