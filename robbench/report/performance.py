"""Results of the performance suite as ``pytest -m perf --benchmark-json FILE`` leaves them: read, checked, put together."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.record import UNREADABLE, Environment

SCHEMA = "robbench.perf/2"

_FIRST_SCHEMA = "robbench.perf/1"
"""Of one run, without its date."""


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One method with one budget: what it found for how many passes."""

    method: str
    passes_per_image: float
    median_pstar: float | None
    """None: censored, larger than the grid."""
    seconds: float
    ratio: float | None = None
    """Seconds of the reference search as published ÷ these."""
    gflops: float | None = None
    share_of_peak: float | None = None


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a reference did in its seconds."""

    passes_per_image: float | None = None
    gflops: float | None = None
    share_of_peak: float | None = None


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """A figure that the suite wants to reach."""

    what: str
    value: float
    least: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark, as the ``perf`` fixture keeps it."""

    run: int = 0
    """Place of the run that made it among those of the :class:`Performance`."""
    device: str
    group: str
    case: str
    data: str | None = None
    """The images' data set; None where none was asked for."""
    images: int
    rounds: int | None = None
    milliseconds_per_image: float
    passes_per_image: float | None = None
    precision: str = "float32"
    peak_gflops: float
    gflops: float | None = None
    share_of_peak: float | None = None
    ratios: dict[str, float] = {}
    """Seconds of each reference ÷ our seconds."""
    references: dict[str, Work] = {}
    """Of those that do other work than we do."""
    targets: list[Target] = []
    axis: str | None = None
    value: float | None = None
    search: str | None = None
    quality: list[Point] = []
    median_pstar: dict[str, float | None] = {}
    correct: int | None = None
    """Of the images, those that the network classifies correctly."""
    reference_over_sequential: float | None = None
    reference_equal_to_sequential: float | None = None
    fast_at_most_one_step_above_reference: float | None = None
    fast_minus_reference_mean_steps: float | None = None
    fast_minus_reference_standard_error: float | None = None


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """One call of pytest."""

    environment: Environment
    date: str | None = None
    """When it ended, ISO 8601."""


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements on one machine, of one run or of several."""

    schema: str = SCHEMA
    runs: list[Run]
    measurements: list[Measurement]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        if not self.measurements:
            raise ValueError("expected at least one measurement of the performance suite")
        if not all(0 <= measurement.run < len(self.runs) for measurement in self.measurements):
            raise ValueError(f"expected measurements of the runs 0 to {len(self.runs) - 1}, got one of another")

    @property
    def slug(self) -> str:
        """The class of machine."""
        return self.runs[-1].environment.slug


def read_performance(path: Path) -> Performance | None:
    """A file that a report or pytest-benchmark wrote; None where it is another kind of file.

    Raises:
        RobbenchError: it is such a file, but damaged, or without any measurement of the performance suite.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (OSError, *UNREADABLE):
        return None
    if not isinstance(content, dict) or not ({"benchmarks", "measurements"} & content.keys()):
        return None
    if isinstance(content.get("benchmarks"), list):
        found = [bench.get("extra_info", {}).get("perf") for bench in content["benchmarks"] if isinstance(bench, dict)]
        run = {"environment": content.get("machine_info", {}), "date": content.get("datetime")}
        content = {"runs": [run], "measurements": [perf for perf in found if perf is not None]}
    elif content.get("schema") == _FIRST_SCHEMA:
        content = content | {"schema": SCHEMA, "runs": [{"environment": content.get("environment", {})}]}
    try:
        if isinstance(content.get("measurements"), list):
            content["measurements"] = [_today(measurement) for measurement in content["measurements"]]
        return msgspec.convert(content, Performance)
    except UNREADABLE as error:
        raise RobbenchError(f"performance results {str(path)!r}: {error}") from error


def merged(performances: Sequence[Performance]) -> list[Performance]:
    """One for each machine: a benchmark that several runs have counts as in the last of them."""
    found: dict[str, dict[tuple[str, str], tuple[Run, Measurement]]] = {}
    for performance in performances:
        latest = found.setdefault(performance.slug, {})
        latest |= {(m.group, m.case): (performance.runs[m.run], m) for m in performance.measurements}
    return [_together([*latest.values()]) for latest in found.values()]


def _together(made: Sequence[tuple[Run, Measurement]]) -> Performance:
    """Measurements with the runs that they come from, each run once, in the order of their dates."""
    runs: list[Run] = []
    for run, _ in made:
        if run not in runs:
            runs.append(run)
    runs.sort(key=lambda run: run.date or "")
    measurements = [msgspec.structs.replace(measurement, run=runs.index(run)) for run, measurement in made]
    return Performance(runs=runs, measurements=measurements)


def _today(measurement: Any) -> Any:
    """A measurement as it is kept today: the passes of the reference search once stood alone."""
    if not isinstance(measurement, dict) or measurement.get("reference_passes_per_image") is None:
        return measurement
    return {"references": {"reference": {"passes_per_image": measurement["reference_passes_per_image"]}}} | measurement
