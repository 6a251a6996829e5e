"""Which pictures the records of a study and of an architecture allow."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.report.answers import answers
from robbench.report.boxes import draw_boxes
from robbench.report.changes import draw_ablation
from robbench.report.curves import draw_ecdf
from robbench.report.dots import draw_answers
from robbench.report.drawing import Picture, file_name
from robbench.report.durations import draw_seconds, draw_study_seconds
from robbench.report.rows import Group
from robbench.report.tradeoff import draw_study_tradeoff, draw_tradeoff


def draw(group: Group) -> list[Picture]:
    """Every figure of an architecture that its records allow."""
    right = any(row.median is not None for row in group.rows)
    allowed = {
        "answers": (any(answer.best for answer in answers(group)), draw_answers),
        "pstar": (any(row.robustness for row in group.rows), draw_boxes),
        "ecdf": (right, draw_ecdf),
        "tradeoff": (right, draw_tradeoff),
        "seconds": (any(row.seconds for row in group.rows), draw_seconds),
        "ablation": (any(row.robustness for row in group.variants), draw_ablation),
    }
    of = group.suite, group.architecture
    return [Picture(kind, file_name(*of, kind), make(group)) for kind, (there, make) in allowed.items() if there]


def draw_study(groups: Sequence[Group]) -> list[Picture]:
    """The figures that hold all architectures of a study; none where there is only one."""
    if len(groups) < 2:
        return []
    rows = [row for group in groups for row in group.rows]
    allowed = {
        "study-tradeoff": (any(row.median is not None for row in rows if row.line), draw_study_tradeoff),
        "study-seconds": (any(row.seconds for row in rows), draw_study_seconds),
    }
    suite = groups[0].suite
    return [Picture(kind, file_name(suite, kind), make(groups)) for kind, (there, make) in allowed.items() if there]
