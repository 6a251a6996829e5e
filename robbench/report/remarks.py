"""What remarks on a study's models are made of: few images, a busy machine, missing stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robbench.record import Record
from robbench.report.ablation import FEW
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


def missing_models(missing: Sequence[str], suite: str) -> dict[str, list[str]]:
    """Models of a study with a missing stage (``suite/case.stage``), by architecture."""
    found: dict[str, dict[str, None]] = {}
    for name in missing:
        study, _, stage = name.partition("/")
        if study == suite:
            case = stage.rpartition(".")[0]
            found.setdefault(case.partition("-")[0], {})[case] = None
    return {architecture: [*cases] for architecture, cases in found.items()}
