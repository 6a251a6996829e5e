"""What the audits say: which p* cannot be trusted, and that nothing was found where nothing was."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.record import Audit
from robbench.report.markdown import escape, model_ranges
from robbench.report.rows import Group, Row

SUSPECT = "⚠"
"""Stands behind the name of a model whose audit has a warning."""


def suspect_section(groups: Sequence[Group]) -> list[str]:
    """A sentence and a list for the top of the report; nothing where no audit has a warning."""
    rows = [row for group in groups for row in group.all_rows if row.suspect]
    if not rows:
        return []
    several = len(rows) != 1
    return [
        f"**{SUSPECT} p\\* of {len(rows)} model{'s' * several} cannot be trusted**, for what the audit found. "
        f"{'They are' if several else 'It is'} marked {SUSPECT} below.",
        "\n".join(f"- {escape(f'{row.suite}/{row.case}')}: {_said(row)}" for row in rows),
    ]


def audit_remark(group: Group) -> str | None:
    """What the audits of an architecture's models looked at and found; None where no model was audited."""
    rows = [row for row in group.all_rows if row.robustness]
    audits = [row.robustness.audit for row in rows if row.robustness and row.robustness.audit]
    if not audits:
        return None
    suspects = [row for row in rows if row.suspect]
    skipped = len(rows) - len(audits)
    found = (
        f"**{len(suspects)} not to be trusted**: {escape(model_ranges(map(_name, suspects)))} ({SUSPECT})"
        if suspects
        else "nothing found"
    )
    return (
        f"Audit of p\\*, {len(audits)} model{'s' * (len(audits) != 1)}: {found}. Looked at: {_checks(audits)}."
        f"{f' Not audited: {skipped}.' if skipped else ''}"
    )


def _name(row: Row) -> str:
    return f"{row.label} ({row.facts.variant})" if row.facts.variant else row.label


def _said(row: Row) -> str:
    audit = row.robustness.audit if row.robustness else None
    return "; ".join(map(escape, audit.warnings)) if audit else ""


def _checks(audits: Sequence[Audit]) -> str:
    total = sum(audit.images for audit in audits)
    scanned, below = sum(audit.scanned for audit in audits), sum(audit.below for audit in audits)
    bent = sum(audit.not_monotone for audit in audits)
    square = sum(audit.square is not None for audit in audits)
    asked = f"Square on {square} model{'s' * (square != 1)}" if square else "not Square, which was not asked for"
    return (
        f"gradients, and one step against the search, on {total:,} images; a linear scan of {scanned:,} images, of which "
        f"{below:,} ({below / max(scanned, 1):.1%}) disagree with the search and {bent:,} are not monotone in ε; {asked}"
    )
