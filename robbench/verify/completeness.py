"""Whether a bundle has a record of every stage that its studies' plans ask for."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from robbench.errors import RobbenchError
from robbench.report import Bundle
from robbench.store.store import Store

_SHOWN = 4
"""Stages that a message names."""

Gap = tuple[Literal["problem", "missing", "unproven"], str, str]
"""Mark, name (a study, or ``suite/case.stage``) and message."""


def gaps(bundle: Bundle, store: Store) -> Iterator[Gap]:
    """What a bundle leaves out, a study or a record at a time.

    A problem: a stage of the plan that is neither recorded nor listed as missing, a record that its study's plan does
    not name, or names by another digest. Missing: what is listed as such. Unproven: a study without a plan, a p*
    without the training of its model or of the model's source, no p* at all.
    """
    recorded = {f"{record.suite}/{record.name}": record for record in bundle.records}
    accounted = bundle.plan.keys() | set(bundle.missing)
    planned = {_study(name) for name in bundle.plan}
    for study in sorted({_study(name) for name in recorded} - planned):
        yield (
            "unproven",
            study,
            "completeness: the bundle has no plan of this study (an older version wrote it), so nobody can tell whether "
            "records were left out; `pytest -m suite … --robbench-resume` writes it with one",
        )
    if all(record.robustness is None for record in bundle.records):
        yield "unproven", "bundle", "no p* is recorded, so there is nothing to prove"
    for name in sorted(bundle.plan.keys() - recorded.keys() - set(bundle.missing)):
        there = "; the store has it" if _finished(bundle.plan[name], store) else ""
        yield "problem", name, f"the plan asks for it, but it is neither recorded nor listed as missing{there}"
    for study in sorted({_study(name) for name in bundle.missing}):
        names = sorted(name for name in bundle.missing if _study(name) == study)
        finished = sum(name in bundle.plan and _finished(bundle.plan[name], store) for name in names)
        there = f"; the store has {finished} of them, --robbench-resume takes in what still holds" if finished else ""
        yield "missing", study, f"{len(names)} stages have no record: {_some(names)}{there}"
    for name, record in sorted(recorded.items()):
        digest = bundle.plan.get(name)
        if digest is None and record.suite in planned:
            yield "problem", name, "recorded, but the plan of its study does not ask for it"
        elif digest not in (None, record.digest):
            yield "problem", name, f"digest: expected that of the plan, {str(digest)[:12]}…, got {record.digest[:12]}…"
        case, what = (
            (record.case, "its model") if record.stage == "robustness" else (record.model.source_case, "its source")
        )
        basis = f"{record.suite}/{case}.training"
        if case is not None and basis not in recorded.keys() | accounted:
            yield "unproven", name, f"the training of {what}, {case}, has no record"


def _study(name: str) -> str:
    return name.partition("/")[0]


def _finished(digest: str, store: Store) -> bool:
    """Whether the store has the stage, whole."""
    try:
        return store.finished(digest) is not None
    except RobbenchError:
        return False


def _some(names: Collection[str]) -> str:
    shown = [name.partition("/")[2] for name in names][:_SHOWN]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"{', '.join(shown)}{more}"
