"""What remarks on an architecture's models are made of: few images, a busy machine, swaps between views, audits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from robbench.record import Audit, Record
from robbench.report.ablation import FEW
from robbench.report.markdown import percent, pstar
from robbench.report.ranking import ROBUST, Swap, swaps
from robbench.report.rows import Group, Row


def few_images(group: Group) -> dict[str, int]:
    """Correct images of the models that have fewer than FEW: their medians say little."""
    few: dict[str, int] = {}
    for row in group.all_rows:
        count = row.robustness.clean.correct if row.robustness is not None else FEW
        if count < FEW:
            few[row.name] = min(count, few.get(row.name, FEW))
    return few


def busy(group: Group) -> dict[str, dict[str, float]]:
    """By kind of stage, models measured while other work had the cores, with their largest share of time in line."""
    stages: dict[str, Callable[[Row], Record | None]] = {
        "training": lambda row: row.trained,
        "p\\*": lambda row: row.tested,
    }
    found: dict[str, dict[str, float]] = {}
    for what, record_of in stages.items():
        for row in group.all_rows:
            record = record_of(row)
            if record is not None and record.measured_busy:
                shares = found.setdefault(what, {})
                shares[row.name] = max(record.waiting_for_core, shares.get(row.name, 0.0))
    return found


@dataclass(frozen=True)
class ShownSwap:
    """A swap with its figures as text."""

    swap: Swap
    values: tuple[str, str]
    others: tuple[str, str]


def shown_swaps(group: Group) -> list[ShownSwap] | None:
    """Pairs of models that change places between two views, each once; None where fewer than two were tested."""
    grids = [row.robustness.grid for row in group.rows if row.robustness]
    if len(grids) < 2:
        return None
    end = max(grid[-1] for grid in grids)

    def show(values: tuple[float, float], view: str) -> tuple[str, str]:
        first, second = (percent(value) if view == ROBUST else pstar(value, end) for value in values)
        return first, second

    pairs: dict[tuple[str, ...], Swap] = {}
    for swap in swaps(group):
        pairs.setdefault(tuple(sorted((swap.above, swap.below))), swap)
    return [ShownSwap(swap, show(swap.values, swap.first), show(swap.others, swap.second)) for swap in pairs.values()]


@dataclass(frozen=True)
class AuditSummary:
    """What the audits of an architecture's models looked at and found."""

    audits: int
    suspects: list[str]
    """Names of the models whose p* cannot be trusted."""
    skipped: int
    """Models that were not audited."""
    images: int
    scanned: int
    below: int
    not_monotone: int
    square: int
    """Models that Square attacked."""


def audit_summary(group: Group) -> AuditSummary | None:
    """The audits together; None where no model was audited."""
    tested = [row for row in group.all_rows if row.robustness]
    audits = audits_of(tested)
    if not audits:
        return None
    return AuditSummary(
        audits=len(audits),
        suspects=list(dict.fromkeys(row.name for row in tested if row.suspect)),
        skipped=len(tested) - len(audits),
        images=sum(audit.images for audit in audits),
        scanned=sum(audit.scanned for audit in audits),
        below=sum(audit.below for audit in audits),
        not_monotone=sum(audit.not_monotone for audit in audits),
        square=sum(audit.square is not None for audit in audits),
    )


def audits_of(rows: Iterable[Row]) -> list[Audit]:
    """The audits that there are."""
    return [row.robustness.audit for row in rows if row.robustness and row.robustness.audit]


def missing_models(missing: Sequence[str], suite: str) -> dict[str, list[str]]:
    """Models of a study with a missing stage (``suite/case.stage``), by architecture."""
    found: dict[str, dict[str, None]] = {}
    for name in missing:
        study, _, stage = name.partition("/")
        if study == suite:
            case = stage.rpartition(".")[0]
            found.setdefault(case.partition("-")[0], {})[case] = None
    return {architecture: [*cases] for architecture, cases in found.items()}
