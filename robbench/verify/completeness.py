"""What a bundle leaves out."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Literal

from robbench.report import Bundle

_SHOWN = 4
"""Stages that a message names."""

Gap = tuple[Literal["missing", "unproven"], str, str]
"""Mark, name (a study, or ``suite/case.stage``) and message."""


def gaps(bundle: Bundle) -> Iterator[Gap]:
    """What a bundle leaves out, a study or a record at a time.

    Missing: what is listed as such. Unproven: a p* without the training of its model or of the model's source, no p* at
    all.
    """
    recorded = {f"{record.suite}/{record.name}": record for record in bundle.records}
    if all(record.robustness is None for record in bundle.records):
        yield "unproven", "bundle", "no p* is recorded, so there is nothing to prove"
    for study in sorted({_study(name) for name in bundle.missing}):
        names = sorted(name for name in bundle.missing if _study(name) == study)
        yield "missing", study, f"{len(names)} stages have no record: {_some(names)}"
    for name, record in sorted(recorded.items()):
        case, what = (
            (record.case, "its model") if record.stage == "robustness" else (record.model.source_case, "its source")
        )
        basis = f"{record.suite}/{case}.training"
        if case is not None and basis not in recorded.keys() | set(bundle.missing):
            yield "unproven", name, f"the training of {what}, {case}, has no record"


def _study(name: str) -> str:
    return name.partition("/")[0]


def _some(names: Collection[str]) -> str:
    shown = [name.partition("/")[2] for name in names][:_SHOWN]
    more = f" and {len(names) - len(shown):,} more" if len(names) > len(shown) else ""
    return f"{', '.join(shown)}{more}"
