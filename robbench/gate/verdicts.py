"""A record against its baseline: a change counts when it exceeds the tolerance and is significant; only losses fail.

A study fails when any of its figures does, so each figure is tested at :data:`FALSE_ALARMS` ÷ the number of the study's
figures (Bonferroni; Dunn 1961). That holds however the figures depend on each other, and an item's verdict needs no
other item: Holm's step-down (1979), which finds a little more, would need all p-values before the first verdict. The
number is that of the whole study, whatever part of it runs, so that an item run again alone gets the same verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from functools import singledispatch
from typing import Any, Literal

import numpy as np

from robbench.errors import require, unknown
from robbench.gate.baselines import Baseline
from robbench.gate.paired import mcnemar, sign_test
from robbench.record import MISCLASSIFIED, Counts, LowerBounds, Record, Robustness, Struct, Training, median_pstar
from robbench.spec import differences

FALSE_ALARMS = 0.05
"""Share of runs of a study in which any figure may be significant by the chance of which images were drawn."""

FIGURES = {"training": 1, "robustness": 2, "bounds": 1}
"""Figures of a stage that are tested; of a kind that a project adds, one."""

Mark = Literal["=", "+", "-", "~", "x", "missing", "error", "new", "quick"]

MARKS: dict[str, str] = {
    "=": "within tolerance",
    "+": "better",
    "-": "worse: fails",
    "~": "beyond the tolerance, but not significant",
    "x": "not comparable",
    "missing": "no baseline: fails",
    "error": "the stage has no result: fails",
    "new": "baseline written by this run",
    "quick": "quick scale: compared with nothing",
}


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How much a figure may change before it counts; a suite's marker may set each."""

    pstar: float = 0.05
    """Share of the baseline's median p*; a change must also exceed one grid step."""
    accuracy: float = 0.01
    """As a share: 0.01 is one point."""
    seconds: float = 1.25
    """Factor on the baseline's seconds; inf shows them without ever failing."""
    seconds_floor: float = 2.0
    """Seconds by which a stage must be slower at all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, low = getattr(self, field.name), 1.0 if field.name == "seconds" else 0.0
            require(
                isinstance(value, int | float) and value >= low, f"tolerance {field.name}", f"a number ≥ {low:g}", value
            )

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Tolerances:
        """Tolerances from a marker's keywords; a RobbenchError for an unknown one, or a value out of range."""
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise unknown("tolerance", key, known)
        return cls(**given)


def declared(
    marked: Mapping[str, Mapping[str, float | None]], record: Record, given: Mapping[str, float]
) -> Tolerances:
    """The tolerances of a record: those given, else those of its test's marker, as a bundle holds them, else the defaults."""
    marker = marked.get(f"{record.suite}/{record.stage}", {})
    return Tolerances.of({**{name: math.inf if value is None else value for name, value in marker.items()}, **given})


class Verdict(Struct, frozen=True, kw_only=True):
    """One figure of one stage against its baseline."""

    suite: str
    case: str
    stage: str
    figure: str
    """accuracy, median p*, validation accuracy or seconds."""
    mark: Mark
    baseline: float | None = None
    """None where there is none, or the median is censored."""
    current: float | None = None
    message: str

    @property
    def fails(self) -> bool:
        """Whether this verdict fails its item."""
        return self.mark in ("-", "missing", "error") or (self.mark == "x" and self.figure != "seconds")


def plain_verdict(suite: str, name: str, mark: Mark, message: str) -> Verdict:
    """A verdict on a whole stage, ``case.stage``, where there are no two figures to compare."""
    case, _, stage = name.rpartition(".")
    return Verdict(suite=suite, case=case, stage=stage, figure="result", mark=mark, message=message)


def level_of(stages: Iterable[str]) -> float:
    """The p-value below which a figure is significant, of a study with stages of these kinds."""
    return FALSE_ALARMS / max(1, sum(FIGURES.get(kind, 1) for kind in stages))


def levels(records: Iterable[Record]) -> dict[str, float]:
    """The level of every suite that has records among these."""
    stages: dict[str, list[str]] = {}
    for record in records:
        stages.setdefault(record.suite, []).append(record.kind)
    return {suite: level_of(kinds) for suite, kinds in stages.items()}


def compare(record: Record, baseline: Baseline, tolerances: Tolerances, level: float) -> list[Verdict]:
    """Verdicts on every figure that a record and its baseline share, tested at the level of :func:`level_of`."""
    return [*judge(record.result, record, baseline, tolerances, level), _seconds(record, baseline, tolerances)]


@singledispatch
def judge(result: Any, record: Record, baseline: Baseline, tolerances: Tolerances, level: float) -> list[Verdict]:
    """Verdicts on a result, without its seconds; another kind of stage registers its own."""
    return []


@judge.register
def _(result: Training, record: Record, baseline: Baseline, tolerances: Tolerances, level: float) -> list[Verdict]:
    figure = "validation accuracy"
    if why := _other_images(record, baseline):
        return [_incomparable(record, figure, why)]
    old, new = baseline.accuracy, result.validation
    if old is None or not new.total:
        return []
    from scipy.stats import fisher_exact  # here, since it takes a second to import

    p = float(fisher_exact([[old.correct, old.total - old.correct], [new.correct, new.total - new.correct]])[1])
    return [_accuracy(record, figure, old, new, p, tolerances, level, baseline)]


@judge.register
def _(result: Robustness, record: Record, baseline: Baseline, tolerances: Tolerances, level: float) -> list[Verdict]:
    changes = differences(baseline.spec.get("estimate"), record.spec.get("estimate"))
    why = _other_images(record, baseline)
    if not why and (changes or baseline.grid != result.grid or len(baseline.pstar or ()) != len(result.pstar)):
        why = f"the baseline was estimated another way ({', '.join(changes[:3]) or 'another grid or images'})"
    if why or baseline.accuracy is None:
        return [_incomparable(record, "median p*", why, result.median)]
    old, new = np.asarray(baseline.pstar), np.asarray(result.pstar)
    return [
        _accuracy(record, "accuracy", baseline.accuracy, result.clean, mcnemar(old, new), tolerances, level, baseline),
        _median(record, result.grid, "median p*", baseline.pstar or [], result.pstar, baseline, tolerances, level),
    ]


@judge.register
def _(result: LowerBounds, record: Record, baseline: Baseline, tolerances: Tolerances, level: float) -> list[Verdict]:
    figure, changes = "median certified radius", differences(baseline.spec.get("bounds"), record.spec.get("bounds"))
    why = _other_images(record, baseline)
    if not why and (changes or baseline.grid != result.grid or len(baseline.lower or ()) != len(result.lower)):
        why = f"the baseline was bounded another way ({', '.join(changes[:3]) or 'another grid or images'})"
    if why or baseline.lower is None:
        return [_incomparable(record, figure, why, result.median)]
    return [_median(record, result.grid, figure, baseline.lower, result.lower, baseline, tolerances, level)]


def _other_images(record: Record, baseline: Baseline) -> str:
    """Why the figures cannot be compared, if the baseline is of other images; else empty."""
    same = record.data.sha256 == baseline.data.sha256
    return "" if same else f"the baseline was made with other images of {baseline.data.name!r} (their SHA-256 differs)"


def _incomparable(record: Record, figure: str, why: str, current: float | None = None) -> Verdict:
    message = f"{figure} cannot be compared: {why}; renew it with --robbench-update"
    return _verdict(record, figure, "x", None, current, message)


def _verdict(record: Record, figure: str, mark: Mark, old: float | None, new: float | None, message: str) -> Verdict:
    old, new = (value if value is not None and math.isfinite(value) else None for value in (old, new))
    where = {"suite": record.suite, "case": record.case, "stage": record.stage}
    return Verdict(**where, figure=figure, mark=mark, baseline=old, current=new, message=message)


def _accuracy(
    record: Record,
    figure: str,
    old: Counts,
    new: Counts,
    p: float,
    tolerances: Tolerances,
    level: float,
    baseline: Baseline,
) -> Verdict:
    """The verdict on a change of accuracy with this p-value."""
    change = new.share - old.share
    mark = _mark(change, abs(change) > tolerances.accuracy + 1e-12, p < level)
    message = (
        f"{figure} {old.share:.1%} → {new.share:.1%} ({change * 100:+.1f} points of {new.total:,} images, "
        f"{_tested(p, level)}; tolerance {tolerances.accuracy * 100:g} points){_because(record, baseline)}"
    )
    return _verdict(record, figure, mark, old.share, new.share, message)


def _median(
    record: Record,
    grid: list[float],
    figure: str,
    before: list[int],
    after: list[int],
    baseline: Baseline,
    tolerances: Tolerances,
    level: float,
) -> Verdict:
    """The verdict on the median of grid indices, p* or certified radii, of the same images before and after."""
    old, new = (median_pstar([index for index in side if index != MISCLASSIFIED], grid) for side in (before, after))
    shown = f"{figure} {show_pstar(old)} → {show_pstar(new)}"
    if old is None or new is None:
        mark: Mark = "=" if old == new else "+" if old is None else "-"
        message = f"{shown}: no image is classified correctly{_because(record, baseline)}"
        return _verdict(record, figure, mark, old, new, message)
    p, rose, fell = sign_test(np.asarray(before), np.asarray(after))
    step = grid[1] - grid[0] if len(grid) > 1 else 0.0
    change = 0.0 if old == new else new - old
    limit = max(tolerances.pstar * old, step) if math.isfinite(old) else 0.0
    mark = _mark(change, abs(change) > limit + 1e-12, p < level and (rose > fell) == (change > 0))
    relative = f", {change / old:+.0%}" if math.isfinite(change) and old else ""
    message = (
        f"{shown}{relative} (it rose on {rose:,} images and fell on {fell:,}, {_tested(p, level)}; "
        f"tolerance {tolerances.pstar:.0%} and one grid step of {step:g}){_because(record, baseline)}"
    )
    return _verdict(record, figure, mark, old, new, message)


def _tested(p: float, level: float) -> str:
    return f"p = {p:.2g}, significant below {level:.2g}"


def _mark(change: float, beyond: bool, significant: bool) -> Mark:
    if beyond and significant:
        return "+" if change > 0 else "-"
    return "~" if beyond else "="


def _because(record: Record, baseline: Baseline) -> str:
    changed = _changed(record, baseline)
    return f"; {changed}" if changed else ""


def _changed(record: Record, baseline: Baseline) -> str:
    """What changed in the specification, at most three fields of it, or else that the code behind it did."""
    changes = differences(baseline.spec, record.spec)
    if changes:
        return f"the specification changed: {', '.join(changes[:3])}{', …' if len(changes) > 3 else ''}"
    same = baseline.digest == record.digest
    return "" if same else f"the code behind {record.model.architecture} changed, its specification did not"


def _seconds(record: Record, baseline: Baseline, tolerances: Tolerances) -> Verdict:
    new, slug = record.seconds.measured, record.environment.slug
    timed = baseline.seconds.get(slug)
    if timed is None:
        known = ", ".join(sorted(baseline.seconds)) or "none"
        message = f"seconds not comparable: no baseline on {slug} (there is: {known})"
        return _verdict(record, "seconds", "x", None, new, message)
    if baseline.digest != record.digest:
        why = _changed(record, baseline).partition(": ")[0]
        return _verdict(record, "seconds", "x", timed, new, f"seconds not comparable: {why}")
    beyond = abs(new - timed) > tolerances.seconds_floor
    factor = new / timed if timed else 1.0 if new == timed else math.inf
    slower, faster = factor > tolerances.seconds, factor < 1 / tolerances.seconds
    mark: Mark = "-" if slower and beyond else "+" if faster and beyond else "="
    limit = f"tolerance ×{tolerances.seconds:g} and {tolerances.seconds_floor:g} s"
    message = (
        f"{timed:.1f} s → {new:.1f} s on {slug} "
        f"(×{factor:.2f}; {limit if math.isfinite(tolerances.seconds) else 'shown only'})"
    )
    if record.measured_busy:
        message += f"; the machine was busy, {record.waiting_for_core:.0%} of the time a thread waited for a core"
    return _verdict(record, "seconds", mark, timed, new, message)


def show_pstar(value: float | None) -> str:
    """A median p* for people: censored medians and empty distributions in words."""
    if value is None:
        return "none"
    return "beyond the grid" if math.isinf(value) else f"{value:.4g}"
