"""What remarks on a study's models are made of: few images, a busy machine, missing stages."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.report.ablation import FEW
from robbench.report.rows import Group
from robbench.report.seeds import models_of


def few_images(group: Group) -> dict[str, int]:
    """Correct images of the models that have fewer than FEW in a seed: their medians say little."""
    found = {}
    for model in models_of(group.all_rows):
        count = min((row.robustness.clean.correct for row in model.rows if row.robustness), default=FEW)
        if count < FEW:
            found[model.rows[0].name] = count
    return found


def busy(group: Group) -> dict[str, dict[str, float]]:
    """By kind of stage, models measured while other work had the cores, with their largest share of time in line."""
    found: dict[str, dict[str, float]] = {}
    for row in group.all_rows:
        for what, record in (("training", row.trained), ("p\\*", row.tested)):
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
