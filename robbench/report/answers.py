"""The study's three questions in figures: pure functions of a group of models, no text, no pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from robbench.compare import CONFIDENCE, bootstrap_medians
from robbench.record import WRONG, Robustness, median_pstar
from robbench.report.rows import Group, Row


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians; a bound where one of them is censored."""

    value: float
    relation: Literal["=", "<", ">"]
    low: float
    """Of the bootstrap interval over images, both sets resampled independently."""
    high: float


@dataclass(frozen=True)
class Drop:
    """Where median p* falls most from one k to the next."""

    k: int
    following: int
    before: float
    after: float


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One kind of transfer of one seed, at its best k, held against the models trained from scratch."""

    line: str
    rows: tuple[Row, ...]
    """Every k of the line, tested or not."""
    best: Row | None
    """Highest median p*, then highest clean accuracy; None where no median could be taken."""
    source: Row | None
    standard: Row | None
    """Conventionally trained on the target."""
    scratch: Row | None
    """Adversarially trained on the target."""
    retention: Ratio | None
    over_standard: Ratio | None
    relative: Ratio | None
    drop: Drop | None
    epsilon: float | None
    """Radius of the robust accuracies: that of the adversarial training, else the largest fixed one."""
    speed_up: float | None
    """Training seconds from scratch ÷ of the best transfer, measured on the same machine class."""
    speed_up_with_source: float | None
    """The same with the source model's training counted in."""


def answers(group: Group) -> tuple[Answer, ...]:
    """The answers of a group with one seed, for every kind of transfer in it."""
    return tuple(_answer(group, line) for line in group.lines)


def _answer(group: Group, line: str) -> Answer:
    rows = group.of(line)
    best, target = best_transfer(rows), rows[0].facts.dataset
    source_case = (best or rows[0]).facts.source_case
    source = next((row for row in group.rows if row.case == source_case), None)
    standard, scratch = (
        next((row for row in group.of(None) if (row.facts.method, row.facts.dataset) == (method, target)), None)
        for method in ("standard", "pgd")
    )
    return Answer(
        line=line,
        rows=rows,
        best=best,
        source=source,
        standard=standard,
        scratch=scratch,
        retention=median_ratio(best, source),
        over_standard=median_ratio(best, standard),
        relative=median_ratio(best, scratch),
        drop=largest_drop(rows),
        epsilon=comparison_epsilon(best.robustness.grid, scratch or source) if best and best.robustness else None,
        speed_up=speed_up(scratch, [best]),
        speed_up_with_source=speed_up(scratch, [best, source]),
    )


def best_transfer(rows: Sequence[Row]) -> Row | None:
    """The model with the highest median p* (censored is highest), then clean accuracy, then the smallest k."""
    tested = [row for row in rows if row.median is not None]
    return max(tested, key=lambda row: (row.median, row.accuracy, -(row.facts.k or 0)), default=None)


def largest_drop(rows: Sequence[Row]) -> Drop | None:
    """The largest fall of median p* from one tested k to the next; None where it never falls."""
    tested = [(row.facts.k, row.median) for row in rows if row.facts.k is not None and row.median is not None]
    falls = [Drop(k, after_k, before, after) for (k, before), (after_k, after) in pairwise(tested)]
    return max((fall for fall in falls if fall.after < fall.before), key=lambda d: d.before - d.after, default=None)


def median_ratio(numerator: Row | None, denominator: Row | None) -> Ratio | None:
    """Median p* of one model ÷ that of another, with a bootstrap interval.

    A censored median is only known to exceed the grid, so the ratio becomes a bound. None where it is undefined: a
    model is missing, has no correct image or a median of 0 to divide by, or both medians are censored.
    """
    above, below = numerator and numerator.robustness, denominator and denominator.robustness
    if not above or not below or above.median is None or not below.median:
        return None
    low, high = _ratio_interval(above, below)
    if math.isfinite(above.median) and math.isfinite(below.median):
        return Ratio(above.median / below.median, "=", low, high)
    if math.isfinite(above.median):
        return Ratio(above.median / below.grid[-1], "<", low, high)
    if math.isfinite(below.median):
        return Ratio(above.grid[-1] / below.median, ">", low, high)
    return None


def _ratio_interval(above: Robustness, below: Robustness) -> tuple[float, float]:
    def values(robustness: Robustness, seed: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Resampled medians, the censored once as the grid's end and once as inf: what they lie between."""
        steps = bootstrap_medians(robustness.distribution(), seed=seed)
        known = np.interp(steps, np.arange(len(robustness.grid)), robustness.grid)
        return known, np.where(steps > len(robustness.grid) - 1, math.inf, known)

    (top_low, top_high), (bottom_low, bottom_high) = values(above, 1), values(below, 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        least = np.nan_to_num(top_low / bottom_high, nan=0.0, posinf=math.inf)
        most = np.nan_to_num(top_high / bottom_low, nan=math.inf, posinf=math.inf)
    tail = (1 - CONFIDENCE) / 2
    low = np.quantile(least, tail, method="inverted_cdf")
    return float(low), float(np.quantile(most, 1 - tail, method="inverted_cdf"))


def speed_up(scratch: Row | None, instead: Sequence[Row | None]) -> float | None:
    """Training seconds of one model ÷ those of others together; None unless all were timed on one machine class."""
    trained = [row.trained for row in (scratch, *instead) if row and row.seconds]
    if len(trained) != len(instead) + 1:
        return None
    records = [record for record in trained if record]
    if len({record.environment.slug for record in records}) > 1:
        return None
    return records[0].seconds.measured / sum(record.seconds.measured for record in records[1:])


def fixed_epsilons(grid: Sequence[float]) -> tuple[float, ...]:
    """The radii that robust accuracies are shown at: the thesis's, moved to the nearest grid value."""
    wanted = (
        (0.1, 0.2, 0.3)
        if grid[-1] >= 0.3 - 1e-9
        else tuple(eighth / 255 for eighth in (2, 4, 8))
        if grid[-1] >= 8 / 255
        else tuple(share * grid[-1] for share in (0.25, 0.5, 1.0))
    )
    return tuple(sorted({nearest(grid, epsilon) for epsilon in wanted} - {0.0}))


def nearest(grid: Sequence[float], epsilon: float) -> float:
    """The grid value next to ``epsilon``."""
    return min(grid, key=lambda value: abs(value - epsilon))


def comparison_epsilon(grid: Sequence[float], adversarial: Row | None) -> float | None:
    """The radius of a model's adversarial training, on the grid; the largest fixed one where there was none."""
    radius: Any = None
    if adversarial is not None:
        spec: Any = adversarial.record.spec
        spec = spec.get("model", spec)
        for field in ("recipe", "attack", "epsilon"):
            spec = spec.get(field) if isinstance(spec, dict) else None
        radius = spec
    if isinstance(radius, int | float) and 0 < radius <= grid[-1]:
        return nearest(grid, radius) or None
    return fixed_epsilons(grid)[-1] if len(grid) > 1 else None


def common_medians(rows: Sequence[Row]) -> dict[str, tuple[float | None, int]]:
    """Median p* per case over the images that every model on the same data classifies correctly, and how many."""
    same_data: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.robustness is not None:
            same_data.setdefault((row.facts.dataset, row.record.data.sha256), []).append(row)
    medians = {}
    for peers in same_data.values():
        places = {peer.case: _correct(peer.robustness) for peer in peers if peer.robustness}
        common = set.intersection(*(set(found) for found in places.values()))
        for peer in peers:
            assert peer.robustness is not None
            chosen = [places[peer.case][image] for image in common]
            medians[peer.case] = (median_pstar(chosen, peer.robustness.grid), len(common))
    return medians


def _correct(robustness: Robustness | None) -> dict[int, int]:
    """Place in the grid per correct image."""
    assert robustness is not None
    return {image: place for image, place in zip(robustness.images, robustness.pstar, strict=True) if place != WRONG}
