"""A record against its baseline: statistics and verdicts. No torch.

A change of accuracy or robustness counts when it is larger than the tolerance *and* statistically significant; only
losses fail. Both sides saw the same test images, so these are compared one by one (paired): an image that fares the
same on both sides says nothing about the change. Validation accuracy, and baselines without every image's p*, know
counts alone. Seconds are compared on the same machine and digest only.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, fisher_exact

from robbench.errors import require, unknown
from robbench.gate.baselines import Baseline
from robbench.record import MISCLASSIFIED, Counts, Record, Struct, median_pstar
from robbench.spec import differences

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

CONFIDENCE = 0.99
"""Of the bootstrap interval and of the test of accuracies."""

RESAMPLES = 2_000


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How much a figure may change before it counts; a suite's marker may set each."""

    pstar: float = 0.05
    """Share of the baseline's median p*; a change must also exceed one grid step."""
    accuracy: float = 0.01
    """Points of accuracy, as a share."""
    seconds: float = 1.25
    """Factor on the baseline's seconds; inf shows them without ever failing."""
    seconds_floor: float = 2.0
    """Seconds by which a stage must be slower at all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            good = isinstance(value, int | float) and not isinstance(value, bool)
            good = good and (math.isfinite(value) or (value == math.inf and field.name == "seconds"))
            low = 1.0 if field.name == "seconds" else 0.0
            require(good and value >= low, f"tolerance {field.name}", f"a number ≥ {low:g}", value)

    @classmethod
    def of(cls, given: dict[str, float]) -> Tolerances:
        """Tolerances from a marker's keywords.

        Raises:
            RobbenchError: a key is none of the fields, or a value no number.
        """
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise unknown("tolerance", key, known)
        return cls(**given)


class Verdict(Struct, frozen=True, kw_only=True):
    """One figure of one stage against its baseline."""

    suite: str
    case: str
    stage: str
    figure: str
    """accuracy, median p*, validation accuracy or seconds."""
    mark: str
    """A key of ``MARKS``."""
    baseline: float | None = None
    """None where there is none, or the median is censored (see the message)."""
    current: float | None = None
    message: str

    def __post_init__(self) -> None:
        if self.mark not in MARKS:
            raise ValueError(f"expected a mark, got {self.mark!r}")

    @property
    def fails(self) -> bool:
        """Whether this verdict fails its item."""
        return self.mark in ("-", "missing", "error") or (self.mark == "x" and self.figure != "seconds")


def plain_verdict(suite: str, name: str, mark: Mark, message: str) -> Verdict:
    """A verdict on a stage, ``case.stage``, that there are no two figures of."""
    case, _, stage = name.rpartition(".")
    return Verdict(suite=suite, case=case, stage=stage, figure="result", mark=mark, message=message)


def compare(record: Record, baseline: Baseline, tolerances: Tolerances) -> list[Verdict]:
    """Verdicts on every figure that a record and its baseline share."""
    changes = differences(baseline.spec, record.spec)
    because = (
        f"; the specification changed: {', '.join(changes[:3])}{', …' if len(changes) > 3 else ''}" if changes else ""
    )
    if record.data.sha256 != baseline.data.sha256:
        return [_other_images(record, baseline), _seconds(record, baseline, tolerances)]
    verdicts = []
    if record.training is not None and record.training.validation.total and baseline.accuracy is not None:
        verdicts.append(_accuracy(record, "validation accuracy", baseline.accuracy, tolerances, because))
    if record.robustness is not None:
        pairs = paired(record, baseline)
        if baseline.accuracy is not None:
            verdicts.append(_accuracy(record, "accuracy", baseline.accuracy, tolerances, because, pairs))
        verdicts.append(_robustness(record, baseline, tolerances, because, pairs))
    verdicts.append(_seconds(record, baseline, tolerances))
    return verdicts


def _verdict(record: Record, figure: str, mark: Mark, old: float | None, new: float | None, message: str) -> Verdict:
    def plain(value: float | None) -> float | None:
        return value if value is not None and math.isfinite(value) else None

    return Verdict(
        suite=record.suite,
        case=record.case,
        stage=record.stage,
        figure=figure,
        mark=mark,
        baseline=plain(old),
        current=plain(new),
        message=message,
    )


def _other_images(record: Record, baseline: Baseline) -> Verdict:
    figure = "median p*" if record.robustness else "validation accuracy"
    message = (
        f"{figure} cannot be compared: the baseline was made with other images of {baseline.data.name!r} "
        "(their SHA-256 differs); renew it with --robbench-update if that is meant"
    )
    return _verdict(record, figure, "x", None, None, message)


def _accuracy(
    record: Record, figure: str, old: Counts, tolerances: Tolerances, because: str, pairs: Pairs | None = None
) -> Verdict:
    new = record.robustness.clean if record.robustness else record.training.validation  # type: ignore[union-attr]
    change = new.share - old.share
    if pairs is None:
        p = float(fisher_exact([[old.correct, old.total - old.correct], [new.correct, new.total - new.correct]])[1])
    else:
        p = mcnemar(*pairs)
    mark = _mark(change, abs(change) > tolerances.accuracy + 1e-12, p < 1 - CONFIDENCE)
    message = (
        f"{figure} {old.share:.1%} → {new.share:.1%} ({change * 100:+.1f} points of {new.total:,} images, "
        f"p = {p:.2g}; tolerance {tolerances.accuracy * 100:g} points){because}"
    )
    return _verdict(record, figure, mark, old.share, new.share, message)


def _robustness(
    record: Record, baseline: Baseline, tolerances: Tolerances, because: str, pairs: Pairs | None
) -> Verdict:
    robustness, old = record.robustness, baseline.distribution
    assert robustness is not None
    asked, was = record.spec.get("estimate"), baseline.spec.get("estimate")
    new_median = robustness.median
    figure = "median p*"
    if old is None or differences(was, asked) or list(old.grid) != robustness.grid:
        message = (
            f"median p* cannot be compared: the baseline was estimated another way "
            f"({', '.join(differences(was, asked)[:3]) or 'another grid'}); "
            "renew it with --robbench-update if that is meant"
        )
        return _verdict(record, figure, "x", None, new_median, message)
    old_counts, new_counts = np.asarray(old.counts), robustness.distribution()
    old_median = median_of_counts(old_counts, robustness.grid)
    if old_median is None or new_median is None:
        mark: Mark = "=" if old_median == new_median else ("+" if old_median is None else "-")
        message = (
            f"median p* {show_pstar(old_median)} → {show_pstar(new_median)}: no image is classified correctly{because}"
        )
        return _verdict(record, figure, mark, old_median, new_median, message)
    low, high = median_change_interval(old_counts, new_counts) if pairs is None else paired_change_interval(*pairs)
    step = robustness.grid[1] - robustness.grid[0] if len(robustness.grid) > 1 else 0.0
    change = 0.0 if old_median == new_median else new_median - old_median
    limit = max(tolerances.pstar * old_median, step) if math.isfinite(old_median) else 0.0
    mark = _mark(change, abs(change) > limit + 1e-12, not low <= 0 <= high)
    relative = f", {change / old_median:+.0%}" if math.isfinite(change) and old_median else ""
    message = (
        f"median p* {show_pstar(old_median)} → {show_pstar(new_median)}{relative} "
        f"(99 % bootstrap interval of the change {low * step:+.3g} to {high * step:+.3g}; "
        f"tolerance {tolerances.pstar:.0%} and one grid step of {step:g}){because}"
    )
    return _verdict(record, figure, mark, old_median, new_median, message)


def _seconds(record: Record, baseline: Baseline, tolerances: Tolerances) -> Verdict:
    new, slug = record.seconds.measured, record.environment.slug
    timed = baseline.seconds.get(slug)
    if timed is None:
        known = ", ".join(sorted(baseline.seconds)) or "none"
        message = f"seconds not comparable: no baseline on {slug} (there is: {known})"
        return _verdict(record, "seconds", "x", None, new, message)
    if baseline.digest != record.digest:
        return _verdict(record, "seconds", "x", timed, new, "seconds not comparable: the specification changed")
    beyond = abs(new - timed) > tolerances.seconds_floor
    factor = new / timed if timed else 1.0 if new == timed else math.inf
    slower, faster = factor > tolerances.seconds, factor < 1 / tolerances.seconds
    mark: Mark = "-" if slower and beyond else "+" if faster and beyond else "="
    limit = f"×{tolerances.seconds:g} and {tolerances.seconds_floor:g} s"
    message = (
        f"{timed:.1f} s → {new:.1f} s on {slug} (×{factor:.2f}; "
        f"{f'tolerance {limit}' if math.isfinite(tolerances.seconds) else 'shown only'})"
    )
    if record.measured_busy:
        message += (
            f"; the machine was busy, {record.waiting_for_core:.0%} of the time a thread stood in line for a core"
        )
    return _verdict(record, "seconds", mark, timed, new, message)


def _mark(change: float, beyond: bool, significant: bool) -> Mark:
    if not beyond:
        return "="
    if not significant:
        return "~"
    return "+" if change > 0 else "-"


Pairs = tuple[NDArray[np.int64], NDArray[np.int64]]
"""The (N,) p* of the same images in the baseline and now, as places in the grid; ``MISCLASSIFIED`` where misclassified."""


def paired(record: Record, baseline: Baseline) -> Pairs | None:
    """The p* of the images that both sides were estimated on; None where the baseline does not have them."""
    robustness, old = record.robustness, baseline.distribution
    if robustness is None or old is None or old.pstar is None or list(old.grid) != robustness.grid:
        return None
    if differences(baseline.spec.get("estimate"), record.spec.get("estimate")) or len(old.pstar) != len(
        robustness.pstar
    ):
        return None
    return np.asarray(old.pstar), np.asarray(robustness.pstar)


def mcnemar(old: NDArray[np.int64], new: NDArray[np.int64]) -> float:
    """Two-sided p of McNemar's exact test (1947): whether as many images became right as became wrong."""
    lost, gained = (
        int(np.sum((old != MISCLASSIFIED) & (new == MISCLASSIFIED))),
        int(np.sum((old == MISCLASSIFIED) & (new != MISCLASSIFIED))),
    )
    return float(binomtest(lost, lost + gained).pvalue) if lost + gained else 1.0


def paired_change_interval(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[float, float]:
    """99 % percentile bootstrap interval, in grid steps, of the change of the median over the same images.

    Images are drawn with replacement, alike for both sides; each side's median is that of its correct ones.
    """
    return _paired_interval(old.tobytes(), new.tobytes())


@lru_cache(maxsize=4096)
def _paired_interval(old: bytes, new: bytes) -> tuple[float, float]:
    sides = np.stack([np.frombuffer(side, dtype=np.int64) for side in (old, new)])
    kinds, counts = np.unique(sides, axis=1, return_counts=True)
    draws = np.random.default_rng(0).multinomial(counts.sum(), counts / counts.sum(), size=RESAMPLES)
    change = np.subtract(*(_drawn_medians(draws, places) for places in kinds[::-1]))
    low, high = np.nanquantile(change, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _drawn_medians(draws: NDArray[np.int64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """(R,) medians of the correct images in (R, K) draws of K kinds of images, with (K,) places; NaN of none."""
    order = np.argsort(places)
    order = order[places[order] != MISCLASSIFIED]
    below = draws[:, order].cumsum(axis=1)
    total = below[:, -1:] if len(order) else np.zeros((len(draws), 1), dtype=np.int64)
    medians = np.full(len(draws), np.nan)
    some = total[:, 0] > 0
    low, high = ((below[some] <= half[some]).sum(axis=1) for half in ((total - 1) // 2, total // 2))
    medians[some] = (places[order][low] + places[order][high]) / 2.0
    return medians


def show_pstar(value: float | None) -> str:
    """A median p* for people: censored medians and empty distributions in words."""
    if value is None:
        return "none"
    return "beyond the grid" if math.isinf(value) else f"{value:.4g}"


def median_of_counts(counts: NDArray[np.int64], grid: list[float]) -> float | None:
    """Median p* of counts per grid value, the censored last; None of no images."""
    return median_pstar(np.repeat(np.arange(len(counts)), counts).tolist(), grid)


def bootstrap_medians(counts: NDArray[np.int64], *, seed: int = 0) -> NDArray[np.float64]:
    """(RESAMPLES,) medians, in grid steps, of images resampled with replacement; the censored lie one past the grid.

    Resampling images of a distribution over grid values is drawing multinomial counts (Efron and Tibshirani 1993,
    chapter 6), so nothing depends on the number of images. The same counts give the same array, which is read-only.
    """
    return _resampled(tuple(counts.tolist()), seed)


@lru_cache(maxsize=1024)  # one run is compared many times where error rates are measured; 16 kB each
def _resampled(counts: Sequence[int], seed: int) -> NDArray[np.float64]:
    total = sum(counts)
    draws = np.random.default_rng(seed).multinomial(total, np.asarray(counts) / total, size=RESAMPLES).cumsum(axis=1)
    low = (draws <= (total - 1) // 2).sum(axis=1)
    high = (draws <= total // 2).sum(axis=1)
    medians = np.asarray((low + high) / 2.0, dtype=np.float64)
    medians.flags.writeable = False
    return medians


def median_change_interval(old: NDArray[np.int64], new: NDArray[np.int64]) -> tuple[float, float]:
    """99 % percentile bootstrap interval, in grid steps, of the change of the median between two sets of images."""
    change = bootstrap_medians(new, seed=1) - bootstrap_medians(old, seed=2)
    low, high = np.quantile(change, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)
