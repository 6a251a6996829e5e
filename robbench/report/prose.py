"""``report.md``: verdict first, then the answers to the study's three questions, then everything in tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from robbench.gate.verdicts import CONFIDENCE, MARKS, Verdict
from robbench.report.drawing import ABLATION, ANSWERS, Picture
from robbench.report.markdown import escape, fenced, text_table
from robbench.report.missing import missing_section
from robbench.report.overview import overview_table, studies, study_heading
from robbench.report.provenance import data_table, environment_table, estimates, when
from robbench.report.remarks import ablation_section, busy_remark, few_images_remark, ranking_remark
from robbench.report.rows import Group
from robbench.report.sentences import answer_section
from robbench.report.tables import attack_table, not_beside, study_table, views_table
from robbench.report.trust import audit_remark, suspect_section

_GLOSSARY = (
    ("ε", "L∞ radius of a perturbation, in pixel units of images in [0, 1]"),
    ("p\\*", "smallest ε of the grid at which the attack fooled the model on an image: an upper bound of the true one"),
    ("median p\\*", "median of p\\* over the test images that the model classifies correctly unperturbed"),
    ("common images", "the test images that every model on the same data in the table classifies correctly"),
    ("final test", "FGSM and PGD at fixed radii, as the study tested its models; p\\* is estimated apart from it"),
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
    (
        "speed-up",
        "training seconds of that from-scratch model ÷ training seconds of TL#k, on the same machine class; of several "
        "seeds the median of their ratios, as of all ratios and differences",
    ),
    (
        "training seconds",
        "updates of the weights, adversarial images included; “in all” adds validation, warm-up and I/O",
    ),
    (
        "drop point",
        "the k after which median p\\* falls most; “uncertain” where less than 95% of the bootstrap resamplings agree; "
        "of several seeds, that of their medians",
    ),
    ("interval", f"{CONFIDENCE:.0%} bootstrap over test images, drawn alike for all models tested on the same ones"),
    ("[a to b]", "of a figure over several seeds: the least and the greatest; the figure before it is their median"),
    ("–", "does not exist: not run, no correct image, or read from a checkpoint"),
)


def headline(verdicts: Sequence[Verdict], lacking: int = 0) -> str:
    """The verdicts in one line of plain text.

    Args:
        verdicts: of the stages that a run compared.
        lacking: how many of the study's stages it did not: a study has not passed while there are any.
    """
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
    left = f"; {lacking} stage{'s' * (lacking != 1)} of the study not compared" if lacking else ""
    if any(verdict.fails for verdict in verdicts):
        figures = len(marks) - errors
        return f"Failed: {rest}{f', of {figures} figure' + 's' * (figures != 1) if figures else ''}{left}."
    if not compared:
        return f"Nothing compared: {rest}{left}."
    passed = "Passed so far" if left else "Passed"
    return f"{passed}: {compared} figure{'s' * (compared != 1)} compared{', ' if rest else ''}{rest}{left}."


Pictures = Mapping[tuple[str, ...], Sequence[Picture]]
"""The pictures of a study by (suite,), and of an architecture by (suite, architecture)."""


def report_text(
    groups: Sequence[Group],
    pictures: Pictures,
    *,
    title: str,
    command: str = "",
    notes: Sequence[str] = (),
    verdicts: Sequence[Verdict] = (),
    missing: Sequence[str] = (),
    plan: Iterable[str] = (),
) -> str:
    """The whole of ``report.md``: a section per study, answers first."""
    records = [record for group in groups for row in group.all_rows for record in (row.trained, row.tested) if record]
    compared = {f"{verdict.suite}/{verdict.case}.{verdict.stage}" for verdict in verdicts}
    parts = [
        f"# {escape(title)}",
        f"**{headline(verdicts, len({*plan, *missing} - compared))}**",
        *suspect_section(groups),
        *_changed_specification(verdicts),
    ]
    parts += [_verdict_table(verdicts)] if _worth_showing(verdicts) else []
    for suite, found in studies(groups):
        parts += _study(suite, found, pictures, missing)
    ran = {group.suite for group in groups}
    for suite in dict.fromkeys(name.partition("/")[0] for name in missing):
        if suite not in ran:
            parts += [f"## {escape(suite)}", missing_section(_of_study(suite, missing), []) or ""]
    parts += [] if groups else ["No model was run."]
    said = list(dict.fromkeys([*notes, *(note for record in records for note in record.notes)]))
    parts += ["## Notes", "\n".join(f"- {escape(note)}" for note in said)] if said else []
    parts += ["## How to read this", text_table(["Term", "Meaning"], [*_GLOSSARY, *_marks(verdicts)])]
    if records:
        parts += ["## Data", data_table(records), *estimates(groups)]
        parts += ["## Environment", environment_table(records), when(records)]
    parts += ["## Command", fenced(command)] if command else []
    return "\n\n".join(parts) + "\n"


def _study(suite: str, groups: Sequence[Group], pictures: Pictures, missing: Sequence[str]) -> list[str]:
    """Answers, overview, then every architecture model by model."""
    parts = [study_heading(suite, groups)]
    cases = [row.case for group in groups for row in group.all_rows]
    lacking = missing_section(_of_study(suite, missing), cases)
    parts += [lacking] if lacking else []
    parts += ["### The answers in figures"]
    for group in groups:
        parts += answer_section(group)
        parts += [remark for remark in (few_images_remark(group), busy_remark(group)) if remark]
        parts += [_shown(image) for image in pictures.get((suite, group.architecture), ()) if image.kind == ANSWERS]
    overview = overview_table(groups)
    parts += ["Every kind of transfer at its best k:", overview] if overview else []
    parts += [_shown(image) for image in pictures.get((suite,), ())]
    for group in groups:
        images = [image for image in pictures.get((suite, group.architecture), ()) if image.kind != ANSWERS]
        parts += _architecture(group, images)
    return parts


def _architecture(group: Group, images: Sequence[Picture]) -> list[str]:
    """Tables, remarks and pictures of one architecture."""
    parts = [f"### {escape(group.architecture)}, model by model"]
    parts += [study_table(group)] if group.rows else []
    audit = audit_remark(group)
    parts += [audit] if audit else []
    beside = not_beside(group)
    parts += (
        [f"Published seconds span validation and I/O, on one NVIDIA L4: they stand beside our seconds in all. {beside}"]
        if beside
        else []
    )
    views = views_table(group)
    if views:
        parts += ["Models misclassify different images, so robustness is shown three ways:", views]
        remark = ranking_remark(group)
        parts += [remark] if remark else []
    final = attack_table(group)
    parts += (
        ["The final test, robust accuracy over all test images under attacks of fixed radius:", final] if final else []
    )
    parts += [_shown(image) for image in images if image.kind != ABLATION]
    ablation = ablation_section(group)
    parts += (
        [f"#### {escape(group.architecture)}: what the published code's choices change", *ablation] if ablation else []
    )
    return parts + [_shown(image) for image in images if image.kind == ABLATION]


def _shown(image: Picture) -> str:
    return f"![{escape(image.alt)}](figures/{image.name})\n\n*{escape(image.caption)}*"


def _of_study(suite: str, missing: Sequence[str]) -> list[str]:
    return [name.partition("/")[2] for name in missing if name.partition("/")[0] == suite]


_CHANGED = "the specification changed"


def _changed_specification(verdicts: Sequence[Verdict]) -> list[str]:
    """In words, that baselines were made with another specification, and what became of the comparison."""
    changed = [verdict for verdict in verdicts if _CHANGED in verdict.message]
    if not changed:
        return []
    stages = len({(verdict.suite, verdict.case, verdict.stage) for verdict in changed})
    told = dict.fromkeys(
        verdict.message.partition(f"{_CHANGED}: ")[2] for verdict in changed if f"{_CHANGED}: " in verdict.message
    )
    what = f" ({escape('; '.join([*told][:2]))})" if told else ""
    return [
        f"The specification of {stages} stage{'s' * (stages != 1)} is not that of the baselines{what}: their accuracy "
        "and median p\\* were held to the old figures all the same, their seconds were not compared. "
        "`--robbench-update` makes this run the baseline."
    ]


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
