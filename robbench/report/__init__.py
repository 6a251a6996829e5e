"""Reports from records alone: no torch, so that any machine can render them."""

from robbench.report.agreement import disagreements
from robbench.report.answers import Answer, answers
from robbench.report.bundle import Bundle, merge, read_bundle, render, write_bundle
from robbench.report.perf import write_performance
from robbench.report.performance import Performance, merged, read_performance
from robbench.report.prose import headline
from robbench.report.rows import Group, Row, group_records

__all__ = [
    "Answer",
    "Bundle",
    "Group",
    "Performance",
    "Row",
    "answers",
    "disagreements",
    "group_records",
    "headline",
    "merge",
    "merged",
    "read_bundle",
    "read_performance",
    "render",
    "write_bundle",
    "write_performance",
]
