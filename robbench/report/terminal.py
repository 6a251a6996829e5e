"""What a run prints at its end: one table per study, and the verdicts that a reader must see. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tabulate import tabulate

from robbench.gate.verdicts import MARKS, Verdict
from robbench.record import Record
from robbench.report.advice import advice, excluded, nothing
from robbench.report.choice import choices
from robbench.report.markdown import pstar
from robbench.report.rows import group_records, studies


def table(records: Sequence[Record], verdicts: Sequence[Verdict], style: str = "simple") -> str:
    """One row per model: what was measured and the mark of each figure against its baseline; ``style`` is tabulate's."""
    by_name = {record.name: record for record in records}
    others = [record for record in records if record.stage not in ("training", "robustness")]
    more = list(dict.fromkeys((record.stage, name) for record in others for name in _shown(record)))
    rows = []
    for case in dict.fromkeys(record.case for record in records):
        training, robustness = by_name.get(f"{case}.training"), by_name.get(f"{case}.robustness")
        result = robustness.robustness if robustness else None
        history = training.training if training else None
        rows.append(
            (
                case,
                f"{result.clean.share:.1%}" if result else "",
                pstar(result.median, result.grid[-1]) if result else "",
                f"{training.seconds.measured:.1f}" if training else "",
                f"{history.best}/{len(history.epochs)}" if history and history.epochs else "",
                f"{robustness.seconds.measured:.1f}" if robustness else "",
                *(_figure(by_name.get(f"{case}.{kind}"), name) for kind, name in more),
                _marks(verdicts, case),
            )
        )
    measured = (
        "accuracy",
        "median p*",
        "training s",
        "kept epoch",
        "p* s",
        *(f"{kind}: {name}" for kind, name in more),
    )
    headers = ("model", *measured, "against baseline")
    align = ("left", *["right"] * len(measured), "left")
    return str(tabulate(rows, headers, tablefmt=style, disable_numparse=True, colalign=align))


def _shown(record: Record) -> list[str]:
    """Figures with a column: of a second estimate its median."""
    return ["median p*"] if record.robustness else [*record.figures]


def _figure(record: Record | None, name: str) -> str:
    if record and record.robustness:
        return pstar(record.robustness.median, record.robustness.grid[-1])
    value = record.figures.get(name) if record else None
    return "" if value is None else f"{value:.4g}"


def recommended(records: Sequence[Record], floors: Mapping[str, float]) -> list[str]:
    """What to choose among the models of a study, a line for each purpose; nothing at quick scale.

    ``floors`` are the accuracy floors of the suites that declare one.
    """
    groups = group_records([record for record in records if not record.suite.endswith("-quick")], floors)
    lines = []
    for choice in (choice for _, found in studies(groups) for choice in choices(found)):
        lines += [*map(str, advice(choice)), excluded(choice), nothing(choice)]
    return [line for line in lines if line]


def legend(verdicts: Sequence[Verdict]) -> str:
    """What the marks in a table say, but for ``=``; empty where there are no others."""
    marks = [mark for mark in MARKS if mark != "=" and any(verdict.mark == mark for verdict in verdicts)]
    return " · ".join(f"{mark} ({MARKS[mark]})" for mark in marks)


def warnings(records: Sequence[Record]) -> list[str]:
    """A line for every model whose p* cannot be trusted: what its audit found."""
    return [
        f"{record.case}{record.stage.removeprefix(record.kind)}: p* cannot be trusted: {'; '.join(record.robustness.audit.warnings)}"
        for record in records
        if record.robustness and record.robustness.audit and record.robustness.audit.warnings
    ]


def busy(records: Sequence[Record]) -> str:
    """A line that names stages whose seconds are no measure, since other work had the cores; empty without any."""
    found = [f"{record.name} {record.waiting_for_core:.0%}" for record in records if record.measured_busy]
    more = f", and {len(found) - 4} more" if len(found) > 4 else ""
    said = "the machine was busy: these stages waited for a core so much of their time that their seconds mean little"
    return f"{said}: {', '.join(found[:4])}{more}" if found else ""


def _marks(verdicts: Sequence[Verdict], case: str) -> str:
    """``accuracy = · median p* - · seconds =``, the worst first."""
    order = ["error", "-", "missing", "x", "~", "+", "=", "new", "quick"]
    own = [verdict for verdict in verdicts if verdict.case == case]
    own.sort(key=lambda verdict: order.index(verdict.mark))
    if {verdict.mark for verdict in own} == {"="}:
        return "= all"
    return " · ".join(dict.fromkeys(f"{_of(verdict)} {verdict.mark}" for verdict in own))


def _of(verdict: Verdict) -> str:
    return verdict.figure if verdict.stage in ("training", "robustness") else f"{verdict.stage}: {verdict.figure}"
