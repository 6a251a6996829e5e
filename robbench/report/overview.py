"""A study at a glance: every architecture and kind of transfer at its best k, the published ones below ours."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from robbench.report.answers import Answer, Drop, answers, largest_fall
from robbench.report.comparisons import Ratio
from robbench.report.markdown import NOTHING, escape, percent, pstar
from robbench.report.published import published_rows
from robbench.report.ranking import common_images
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread
from robbench.report.tables import spread_text

_HEADERS = ["Transfer", "best", "clean accuracy", "median p\\*", "retention", "relative robustness", "speed-up"]
_HEADERS += ["drop point"]


def best_answer(found: Sequence[Answer]) -> Answer | None:
    """The kind of transfer whose best model is the most robust, then the most accurate; None of no transfers."""

    def rank(answer: Answer) -> tuple[float, float]:
        best = answer.best
        return (best.median or 0.0, best.accuracies.value if best.accuracies else 0.0) if best else (-1.0, 0.0)

    return max(found, key=rank, default=None)


def overview_table(groups: Sequence[Group]) -> pd.DataFrame | None:
    """Every kind of transfer at its best k; None without a transfer that has a median p*."""
    found = [(group, answer) for group in groups for answer in answers(group)]
    if not any(answer.best for _, answer in found):
        return None
    several = len(groups) > 1
    common = common_images([row for group in groups for row in group.rows]) if several else {}
    lines = []
    for group, answer in found:
        name = escape(f"{group.architecture}, {answer.line}" if several else answer.line)
        lines.append([name, *_ours(answer), _common(answer.best, common)])
        if published := _published(answer):
            lines.append(["*published*", *published, NOTHING])
    frame = pd.DataFrame(lines, columns=[*_HEADERS, "median p\\* (images common to the study)"], dtype=object)
    frame = frame if several else frame.iloc[:, :-1]
    return frame.loc[:, ~frame.isin([NOTHING, "n/a"]).all()]


def _ours(answer: Answer) -> list[str]:
    best = answer.best
    if best is None:
        return ["n/a"] * 7
    return [
        escape(best.label),
        spread_text(best.accuracies, percent),
        spread_text(best.medians, lambda value: pstar(value, best.grid_end)),
        _share(answer.retention),
        _share(answer.relative),
        factors(answer.speed_up),
        _drop(answer.drop) + (f" ({len(answer.alike)} of {len(answer.drops)} seeds)" if len(answer.drops) > 1 else ""),
    ]


def factors(found: Spread | None) -> str:
    """Factors of time over seeds: ``× 398 [× 338 to × 654]``."""
    return spread_text(found, lambda value: f"× {value:.3g}")


def _share(ratio: Ratio | None) -> str:
    if ratio is None:
        return NOTHING
    return f"{'' if ratio.relation == '=' else ratio.relation + ' '}{spread_text(ratio.seeds, percent)}"


def _drop(drop: Drop | None) -> str:
    """``k = 5``: the k after which median p* falls most."""
    if drop is None:
        return "none"
    return f"k = {drop.k}{', uncertain' if drop.stability < 0.95 else ''}"


def _common(best: Model | None, common: dict[str, Row]) -> str:
    if best is None or not common:
        return NOTHING
    found = Model(tuple(common[row.case] for row in best.right))
    least = min(row.correct or 0 for row in found.rows)
    return f"{spread_text(found.medians, lambda value: pstar(value, best.grid_end))} ({least:,})"


def _published(answer: Answer) -> list[str] | None:
    """The same line from the published tables, where the data are the same."""
    own = next((model.published for model in answer.models if model.published), None)
    if own is None:
        return None
    kind = own.architecture, own.method, own.head
    line = [row for row in published_rows() if row.k and (row.architecture, row.method, row.head) == kind]
    line.sort(key=lambda row: row.k or 0)
    best = max(line, key=lambda row: (row.median_pstar, row.accuracy))
    return [
        f"TL#{best.k}{' adversarial' if best.method == 'transfer-adversarial' else ''}",
        percent(best.accuracy),
        pstar(best.median_pstar, math.nan if best.dataset == "emnist" else 0.11),
        percent(best.retention),
        percent(best.relative),
        f"× {best.speed_up:.3g}",
        _drop(largest_fall([(row.k or 0, row.median_pstar) for row in line])),
    ]
