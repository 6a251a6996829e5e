"""A report as a short text in Markdown, without pictures: for a comment on a pull request, or a CI job's summary."""

from __future__ import annotations

from robbench.report import Bundle
from robbench.report.terminal import busy, legend, recommended, table, warnings


def summary(bundle: Bundle) -> str:
    """What to choose, what fails, a table of all models, and warnings."""
    failing = [verdict for verdict in bundle.verdicts if verdict.fails]
    lines = [f"### {bundle.title}", ""]
    lines += [f"- {line}" for line in recommended(bundle.records, bundle.accuracy_floors)]
    lines += [f"- **fails: {verdict.case}.{verdict.stage}: {verdict.message}**" for verdict in failing]
    lines += ["", table(bundle.records, bundle.verdicts, style="github"), ""]
    said = [legend(bundle.verdicts), *warnings(bundle.records), busy(bundle.records)]
    said += [f"missing: {', '.join(bundle.missing)}"] if bundle.missing else []
    lines += [f"- {line}" for line in said if line]
    return "\n".join(lines).replace("p*", "p\\*") + "\n"
