"""How often the gate fails: of unchanged code at every tolerance, of planted losses, of seconds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gate_errors.runs import Failing, Run, failing

from robbench.gate.verdicts import FALSE_ALARMS, Tolerances, compare
from robbench.record import Record

PSTAR = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
ACCURACY = (0.01, 0.02, 0.03, 0.05, 0.07)
FIGURES = ("median p*", "accuracy", "validation accuracy")


@dataclass
class Rate:
    """How many of how many."""

    hits: int = 0
    of: int = 0

    def add(self, hit: bool) -> None:
        """Count one more."""
        self.hits += hit
        self.of += 1

    @property
    def share(self) -> float:
        """Hits ÷ all; NaN of none."""
        return self.hits / self.of if self.of else math.nan

    @property
    def exact(self) -> str:
        """The rate with its exact 95 % interval (Clopper & Pearson 1934): for independent trials, as distinct pairs are."""
        from scipy.stats import binomtest

        if not self.of:
            return str(self)
        ends = binomtest(self.hits, self.of).proportion_ci(0.95, method="exact")
        return f"{self.share:.1%} ({self.hits:,} of {self.of:,}: {ends.low:.0%} to {ends.high:.0%})"

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.hits:,} of {self.of:,})" if self.of else "–"


def alarms(found: Sequence[tuple[Run, Run]]) -> list[tuple[float, float, list[Failing]]]:
    """What fails in each pair, for pairs of tolerances that hold every value of both grids at least once."""
    rows = []
    for i in range(max(len(PSTAR), len(ACCURACY))):
        pstar, accuracy = PSTAR[min(i, len(PSTAR) - 1)], ACCURACY[min(i, len(ACCURACY) - 1)]
        gate = Tolerances(pstar=pstar, accuracy=accuracy, seconds=math.inf)
        rows.append((pstar, accuracy, [failing(new.records, old.baselines, gate) for old, new in found]))
    return rows


class Grid:
    """What fails between pairs of runs at every tolerance.

    A figure's verdict depends on its own tolerance alone, so the two grids are gone through side by side and joined.
    """

    def __init__(self, found: Sequence[tuple[Run, Run]]) -> None:
        self._pairs = found
        self._failing: dict[tuple[str, float], list[Failing]] = {}
        for pstar, accuracy, failures in alarms(found):
            for figure in FIGURES:
                tolerance = pstar if figure == "median p*" else accuracy
                self._failing[figure, tolerance] = [{name for name in run if name[1] == figure} for run in failures]

    def per_comparison(self, figure: str, tolerance: float) -> Rate:
        """How often one model's figure fails."""
        stage = "training" if figure == "validation accuracy" else "robustness"
        of = sum(
            new.records[name].stage == stage
            for old, new in self._pairs
            for name in new.records.keys() & old.records.keys()
        )
        return Rate(sum(map(len, self._failing[figure, tolerance])), of)

    def per_run(self, pstar: float, accuracy: float) -> Rate:
        """How often anything fails."""
        rate = Rate()
        for parts in zip(
            *(self._failing[figure, pstar if figure == "median p*" else accuracy] for figure in FIGURES), strict=True
        ):
            rate.add(any(parts))
        return rate

    def smallest(self, target: float) -> list[tuple[float, float]]:
        """Tolerances (p*, accuracy) with at most ``target`` alarms a run, neither of which can be smaller."""
        good = [(p, a) for p in PSTAR for a in ACCURACY if self.per_run(p, a).share <= target]
        return [(p, a) for p, a in good if not any(q <= p and b <= a and (q, b) != (p, a) for q, b in good)]


@dataclass(frozen=True)
class Seen:
    """How often planted losses are seen."""

    model: Rate
    """One model's: something of this model fails."""
    every: Rate
    """Every model's: something of the run fails."""
    single: Rate
    """One model's: something of the run fails."""


def seen(found: Iterable[tuple[Run, Run]], plant: Callable[[Record], Record], gate: Tolerances) -> Seen:
    """What the gate sees of losses planted into the newer of each pair of runs."""
    result = Seen(Rate(), Rate(), Rate())
    for old, new in found:
        baselines = old.baselines
        before = failing(new.records, baselines, gate)
        after = failing({name: plant(record) for name, record in new.records.items()}, baselines, gate)
        result.every.add(bool(after))
        for case in new.cases:
            hit = any(name == case for name, _ in after)
            result.model.add(hit)
            result.single.add(hit or any(name != case for name, _ in before))
    return result


def slower(found: Iterable[tuple[Run, Run]], factor: float) -> tuple[Rate, Rate]:
    """How often the seconds of a stage, and of any stage of a run, fail on the same machine class."""
    stages, whole = Rate(), Rate()
    gate = Tolerances(seconds=factor)
    for old, new in found:
        verdicts = [
            verdict
            for name, baseline in old.baselines.items()
            if name in new.records
            for verdict in compare(new.records[name], baseline, gate, FALSE_ALARMS)
            if verdict.figure == "seconds" and verdict.mark != "x"
        ]
        for verdict in verdicts:
            stages.add(verdict.fails)
        if verdicts:
            whole.add(any(verdict.fails for verdict in verdicts))
    return stages, whole
