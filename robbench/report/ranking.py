"""Three views on the robustness of models that misclassify different images, and where they rank the models apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import combinations
from typing import NamedTuple

import msgspec
import numpy as np

from robbench.record import MISCLASSIFIED, Robustness
from robbench.report.bootstrap import Resamples
from robbench.report.comparisons import change, comparison_epsilon
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, models_of

CORRECT, COMMON, ROBUST = "over correct images", "over common images", "by robust accuracy"


@dataclass(frozen=True)
class Swap:
    """Two models that one view ranks one way, and another view the other way, both beyond noise."""

    above: str
    """Label of the model that the first view ranks higher."""
    below: str
    first: str
    second: str
    values: tuple[float, float]
    """Of the first view, ``above`` and then ``below``; the second view's are ``others``."""
    others: tuple[float, float]
    size: float
    """Of the smaller difference in units of its interval's width: how sure the swap is."""


class _View(NamedTuple):
    name: str
    figure: Callable[[Row], float | None]
    resampled: Callable[[Row], Resamples]
    step: float
    """A difference must be larger than this."""


def common_images(rows: Sequence[Row]) -> dict[str, Row]:
    """Every tested model by its case, as if wrong on the images that another on the same data and seed is wrong on."""
    same_data: dict[tuple[str, str, int], list[Row]] = {}
    for row in rows:
        if row.robustness:
            same_data.setdefault((row.facts.dataset, row.record.data.sha256, row.facts.seed), []).append(row)
    found = {}
    for peers in same_data.values():
        results: list[Robustness] = [row.record.result for row in peers]
        right = [np.asarray(each.images)[np.asarray(each.pstar) != MISCLASSIFIED] for each in results]
        common = reduce(np.intersect1d, right)
        for row, each in zip(peers, results, strict=True):
            kept = np.where(np.isin(each.images, common), each.pstar, MISCLASSIFIED).tolist()
            result = msgspec.structs.replace(each, pstar=kept)
            found[row.case] = replace(row, tested=msgspec.structs.replace(row.record, result=result))
    return found


def ranking_epsilon(group: Group) -> float | None:
    """The radius whose robust accuracy ranks the models: that of the adversarial training."""
    grid = next((row.robustness.grid for row in group.rows if row.robustness and row.robustness.pstar), None)
    adversarial = next((row for row in group.of(None) if row.facts.method == "pgd"), None)
    return comparison_epsilon(grid, adversarial) if grid else None


def swaps(group: Group) -> tuple[Swap, ...]:
    """Pairs of models on the same data whose order depends on the view, each at its surest, the surest first."""
    tested = [row for row in group.rows if row.robustness]
    views = _views(group, tested)
    found = []
    for above, below in combinations(models_of(tested), 2):
        if above.facts.dataset == below.facts.dataset:
            found += sorted(_swaps_of(above, below, views), key=lambda swap: -swap.size)[:1]
    return tuple(sorted(found, key=lambda swap: -swap.size))


def _views(group: Group, tested: Sequence[Row]) -> list[_View]:
    common = common_images(tested)
    step = max((row.grid_step for row in tested), default=0.0)
    views = [
        _View(CORRECT, lambda row: row.median, lambda row: row.resampled_medians, step),
        _View(COMMON, lambda row: common[row.case].median, lambda row: common[row.case].resampled_medians, step),
    ]
    epsilon = ranking_epsilon(group)
    if epsilon is not None:
        shares = {row.case: row.resampled_shares(epsilon) for row in tested}  # every pair of models asks for them
        views.append(_View(ROBUST, lambda row: row.robust(epsilon), lambda row: shares[row.case], 0.01))
    return views


def _swaps_of(one: Model, other: Model, views: Sequence[_View]) -> list[Swap]:
    changes = [(view, change(one, other, view.figure, view.resampled)) for view in views]
    counting = [(view, each) for view, each in changes if each and each.beyond_noise(view.step)]
    found = []
    for (first, there), (second, here) in combinations(counting, 2):
        if there.value * here.value < 0:
            above, below = (one, other) if there.value > 0 else (other, one)
            values, others = (
                (above.value(view.figure) or 0.0, below.value(view.figure) or 0.0) for view in (first, second)
            )
            size = min(there.sureness, here.sureness)
            found.append(Swap(above.label, below.label, first.name, second.name, values, others, size))
    return found
