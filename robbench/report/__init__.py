"""Reports from records alone: no torch, so that any machine can render them."""

from robbench.report.agreement import disagreements
from robbench.report.answers import Answer, answers
from robbench.report.bundle import Bundle, merge, read_bundle, render, write_bundle
from robbench.report.prose import headline
from robbench.report.rows import Group, Row, group_records

__all__ = [
    "Answer",
    "Bundle",
    "Group",
    "Row",
    "answers",
    "disagreements",
    "group_records",
    "headline",
    "merge",
    "read_bundle",
    "render",
    "write_bundle",
]
