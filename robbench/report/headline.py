"""The outcome of a comparison in one line."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.gate.verdicts import Verdict
from robbench.report.markdown import many


def headline(verdicts: Sequence[Verdict], lacking: int = 0) -> str:
    """The verdicts in one line of plain text.

    Args:
        verdicts: of the stages that a run compared.
        lacking: how many stages of the study were not compared: a study has not passed while there are any.
    """
    marks = [verdict.mark for verdict in verdicts if verdict.mark != "quick"]
    if not marks:
        return "Quick scale: compared with nothing." if verdicts else "No comparison was made."
    counts = {mark: marks.count(mark) for mark in ("error", "-", "missing", "x", "new")}
    parts = [
        many(counts["error"], "stage") + " without a result" if counts["error"] else "",
        many(counts["-"], "regression") if counts["-"] else "",
        f"{counts['missing']} without a baseline" if counts["missing"] else "",
        f"{counts['x']} not comparable" if counts["x"] else "",
        many(counts["new"], "new baseline") if counts["new"] else "",
    ]
    rest = ", ".join(part for part in parts if part)
    left = f"; {many(lacking, 'stage')} of the study not compared" if lacking else ""
    if any(verdict.fails for verdict in verdicts):
        figures = len(marks) - counts["error"]
        of = f", of {many(figures, 'figure')}" if figures else ""
        return f"Failed: {rest}{of}{left}."
    compared = sum(mark in ("=", "+", "~") for mark in marks)
    if not compared:
        return f"Nothing compared: {rest}{left}."
    passed = "Passed so far" if left else "Passed"
    return f"{passed}: {many(compared, 'figure')} compared{', ' if rest else ''}{rest}{left}."
