"""A model's p* by several searches side by side, on the images that all of them were run on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pandas as pd

from robbench.record import Robustness
from robbench.report.comparisons import Ratio, median_ratio
from robbench.report.markdown import NOTHING, escape, pstar
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, models_of
from robbench.report.tables import SUSPECT, spread_text

LIMIT = 1.1
"""Medians of two searches differ where the larger is more than this times the smaller."""


@dataclass(frozen=True)
class Pair:
    """One model by the study's own search and by a second one."""

    search: str
    own: Model
    other: Model
    ratio: Ratio | None
    """Median p* by the second search ÷ that by the study's own."""

    @property
    def differs(self) -> bool:
        """Whether the medians differ by more than the limit in any seed."""
        seeds = self.ratio.seeds.values if self.ratio else ()
        return any(not 1 / LIMIT - 1e-9 <= value <= LIMIT + 1e-9 for value in seeds)


def pairs(group: Group) -> list[Pair]:
    """Every model with each of its second searches; of the ablation's models, too."""
    return [pair for model in models_of(group.all_rows) for pair in _pairs(model)]


def _pairs(model: Model) -> Iterator[Pair]:
    rows = [found for row in model.rows if (found := _by_search(row))]
    for search in dict.fromkeys(name for found in rows for name in [*found][1:]):
        both = [(next(iter(found.values())), found[search]) for found in rows if search in found]
        own, other = (Model(side) for side in zip(*both, strict=True))
        yield Pair(search, own, other, median_ratio(other, own))


def _by_search(row: Row) -> dict[str, Row]:
    """The model as each of its searches found it, on the images of all of them, the study's own first."""
    if row.tested is None or not row.also:
        return {}
    records = (row.tested, *row.also)
    results: list[Robustness] = [record.result for record in records]
    common = [*set.intersection(*(set(each.images) for each in results))]
    found = {}
    for record, each in zip(records, results, strict=True):
        kept = np.isin(each.images, common)
        images, indices = (np.asarray(values)[kept].tolist() for values in (each.images, each.pstar))
        result = msgspec.structs.replace(each, images=images, pstar=indices)
        found[each.search] = replace(row, tested=msgspec.structs.replace(record, result=result))
    return found


def searches_table(group: Group) -> pd.DataFrame | None:
    """Median p* by the study's own search and by each second one, and their ratio; None without a second search."""
    lines = []
    for pair in pairs(group):
        mark = f" {SUSPECT}" if pair.differs else ""
        lines.append(
            [escape(pair.own.rows[0].name), *_described(pair.own), *_described(pair.other), _ratio(pair) + mark]
        )
    header = ["Model", "search", "median p\\*", "second search", "its median p\\*", "ratio"]
    return pd.DataFrame(lines, columns=header, dtype=object) if lines else None


def _described(model: Model) -> tuple[str, str]:
    result: Robustness = model.rows[0].record.result
    return escape(result.search), spread_text(model.medians, lambda value: pstar(value, model.grid_end))


def _ratio(pair: Pair) -> str:
    if pair.ratio is None:
        return NOTHING
    relation = "" if pair.ratio.relation == "=" else f"{escape(pair.ratio.relation)} "
    return relation + spread_text(pair.ratio.seeds, lambda value: f"{value:.2f}")
