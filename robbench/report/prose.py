"""``report.md``: verdict first, then the answers to the study's three questions, then everything in tables."""

from __future__ import annotations

from collections.abc import Sequence

from robbench.compare import CONFIDENCE, MARKS, Verdict
from robbench.record import Record
from robbench.report.drawing import Picture
from robbench.report.markdown import escape, fenced, text_table
from robbench.report.rows import Group
from robbench.report.sentences import answer_section
from robbench.report.tables import data_table, environment_table, model_table, published_table

_GLOSSARY = (
    ("ε", "L∞ radius of a perturbation, in pixel units of images in [0, 1]"),
    ("p\\*", "smallest ε of the grid at which the attack fooled the model on an image: an upper bound of the true one"),
    ("median p\\*", "median of p\\* over the test images that the model classifies correctly unperturbed"),
    ("common images", "the test images that every model on the same data in the table classifies correctly (how many)"),
    (
        "censored",
        "share of the correct images never fooled inside the grid; a median among them is shown as “> grid end”",
    ),
    ("robust accuracy at ε", "share of all test images classified correctly and not fooled at ε"),
    (
        "TL#k",
        "the last k blocks re-initialised and retrained on the target data, the others kept from the source model",
    ),
    ("retention", "median p\\* of TL#k ÷ median p\\* of its source model; a bound where one of them is censored"),
    ("relative robustness", "median p\\* of TL#k ÷ that of the target model adversarially trained from scratch"),
    ("speed-up", "training seconds of that from-scratch model ÷ training seconds of TL#k, on the same machine class"),
    (
        "training seconds",
        "updates of the weights, adversarial images included; “in all” adds validation, warm-up and I/O",
    ),
    ("interval", f"{CONFIDENCE:.0%} bootstrap over test images, each model's resampled independently"),
    ("–", "does not exist: not run, no correct image, or read from a checkpoint"),
)


def headline(verdicts: Sequence[Verdict]) -> str:
    """The verdicts in one line of plain text."""
    marks = [verdict.mark for verdict in verdicts if verdict.mark != "quick"]
    if not marks:
        return "Quick scale: compared with nothing." if verdicts else "No comparison was made."
    losses, missing, unequal, new, errors = (marks.count(mark) for mark in ("-", "missing", "x", "new", "error"))
    compared = len(marks) - missing - unequal - new - errors
    parts = [
        f"{errors} stage{'s' * (errors != 1)} without a result" if errors else "",
        f"{losses} regression{'s' * (losses != 1)}" if losses else "",
        f"{missing} without a baseline" if missing else "",
        f"{unequal} not comparable" if unequal else "",
        f"{new} new baseline{'s' * (new != 1)}" if new else "",
    ]
    rest = ", ".join(part for part in parts if part)
    if any(verdict.fails for verdict in verdicts):
        figures = len(marks) - errors
        return f"Failed: {rest}{f', of {figures} figure' + 's' * (figures != 1) if figures else ''}."
    if not compared:
        return f"Nothing compared: {rest}."
    return f"Passed: {compared} figure{'s' * (compared != 1)} compared{', ' if rest else ''}{rest}."


def report_text(
    title: str,
    command: str,
    notes: Sequence[str],
    verdicts: Sequence[Verdict],
    groups: Sequence[Group],
    pictures: Sequence[Sequence[Picture]],
) -> str:
    """The whole of ``report.md``; ``pictures`` holds those of each group."""
    records = [record for group in groups for row in group.rows for record in (row.trained, row.tested) if record]
    parts = [f"# {escape(title)}", f"**{headline(verdicts)}**"]
    parts += [_verdict_table(verdicts)] if _worth_showing(verdicts) else []
    parts += ["## The answer in three figures"]
    parts += [text for group in groups for text in answer_section(group)] or ["No model was run."]
    for group, images in zip(groups, pictures, strict=True):
        parts += [f"## {escape(group.architecture)}, model by model ({escape(group.suite)})", model_table(group)]
        beside = published_table(group)
        if beside is not None:
            about = (
                "published seconds span validation and I/O, on one NVIDIA L4, so they stand beside our seconds in all"
            )
            parts += [f"Beside the published figures ({about}):", beside]
        parts += [f"![{escape(image.alt)}](figures/{image.name})\n\n*{escape(image.caption)}*" for image in images]
    said = list(dict.fromkeys([*notes, *(note for record in records for note in record.notes)]))
    parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in said)] if said else []
    parts += ["## How to read this", text_table(["Term", "Meaning"], [*_GLOSSARY, *_marks(verdicts)])]
    if records:
        parts += ["## Data", data_table(records), *_estimates(groups)]
        parts += ["## Environment", environment_table(records), _when(records)]
    parts += ["## Command", fenced(command)] if command else []
    return "\n\n".join(parts) + "\n"


def _worth_showing(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return [verdict for verdict in verdicts if verdict.mark not in ("=", "new", "quick")]


def _verdict_table(verdicts: Sequence[Verdict]) -> str:
    """What is not as before, the failures first; verdicts of one wording share a line."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    for verdict in sorted(_worth_showing(verdicts), key=lambda v: (not v.fails, v.mark != "-", v.mark)):
        key = verdict.mark, verdict.stage, verdict.figure, verdict.message
        lines.setdefault(key, []).append(f"{verdict.suite}/{verdict.case}")
    rows = []
    for (mark, stage, figure, message), cases in lines.items():
        who = ", ".join(cases[:2]) + (f" and {len(cases) - 2} more" if len(cases) > 2 else "")
        rows.append([f"`{mark}`", escape(who), stage, escape(figure), escape(message)])
    return text_table(["", "Case", "Stage", "Figure", "What happened"], rows)


def _marks(verdicts: Sequence[Verdict]) -> list[tuple[str, str]]:
    return [(f"`{mark}`", meaning) for mark, meaning in MARKS.items()] if verdicts else []


def _estimates(groups: Sequence[Group]) -> list[str]:
    """How p* was estimated, once per way."""
    ways: dict[str, None] = {}
    for row in (row for group in groups for row in group.rows):
        if row.robustness is None:
            continue
        grid, attack = row.robustness.grid, dict(row.robustness.attack)
        step = f"step {grid[1] - grid[0]:.4g}" if len(grid) > 1 else "one value"
        kind = attack.pop("kind", "attack")
        settings = ", ".join(f"{name} {value}" for name, value in sorted(attack.items()) if value is not None)
        ways[
            f"p\\* of {len(row.robustness.images):,} images of {escape(row.record.data.name)}: grid {grid[0]:g} to "
            f"{grid[-1]:g}, {step}; {escape(f'{row.robustness.search} search with {kind} ({settings})')}"
        ] = None
    return ["\n".join(f"- {way}" for way in ways)] if ways else []


def _when(records: Sequence[Record]) -> str:
    created = sorted(record.created for record in records)
    return f"{len(records)} stages, recorded from {escape(created[0])} to {escape(created[-1])} (UTC)."
