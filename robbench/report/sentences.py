"""The study's three questions answered in sentences with figures in them; what was not run is said, never guessed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from robbench.compare import CONFIDENCE
from robbench.report.answers import Answer, Ratio, answers
from robbench.report.markdown import escape, percent, pstar, seconds, signed, table, times, whole_ranges
from robbench.report.rows import Group, Row, dataset_label


def answer_section(group: Group) -> list[str]:
    """The answers of one architecture as paragraphs, seed by seed."""
    parts = []
    for seed in group.seeds:
        found = answers(group.seed(seed))
        name = escape(group.architecture) + (f", seed {seed}" if len(group.seeds) > 1 else "")
        if not found:
            parts += [f"### {name} ({escape(group.suite)})", "not run: no transferred model is among these records."]
            continue
        facts = found[0].rows[0].facts
        target = dataset_label(found[0].rows[0].record.data.name)
        about = f"{escape(dataset_label(facts.source or ''))} → {escape(target)}"
        parts.append(f"### {name}: {about} ({escape(group.suite)})")
        first = found[0]
        parts.append(
            f"1. **Does robustness transfer?** {_does_it_transfer(first)}\n"
            f"2. **How close does it come to adversarial training from scratch?** {_how_close(first, target)}\n"
            f"3. **How much faster is it?** {_how_fast(first)}"
        )
        if len(found) > 1:
            parts += ["Every kind of transfer at its best k:", _kinds(found)]
    return parts


def _does_it_transfer(answer: Answer) -> str:
    best = answer.best
    if best is None or best.robustness is None:
        return _no_best(answer)
    tested = [row.facts.k for row in answer.rows if row.median is not None and row.facts.k]
    said = [
        f"{escape(best.label)} is the most robust of {len(tested)} transferred model{'s' * (len(tested) != 1)} "
        f"(k = {whole_ranges(tested)}): median p\\* **{_median(best)}** at {percent(best.accuracy)} clean accuracy.",
        f"Retention: {_ratio(answer.retention, best, answer.source, 'the source model', share=True)}.",
        "Against conventional training on the target: "
        f"{_ratio(answer.over_standard, best, answer.standard, 'the conventionally trained target model', share=False)}.",
    ]
    end = best.robustness.grid[-1]
    if answer.drop:
        before, after = pstar(answer.drop.before, end), pstar(answer.drop.after, end)
        said.append(
            f"Median p\\* falls most after k = {answer.drop.k}: {before} at k = {answer.drop.k}, "
            f"{after} at k = {answer.drop.following}."
        )
    elif len(tested) > 1:
        said.append("Median p\\* never falls from one k to the next.")
    return " ".join(said)


def _how_close(answer: Answer, target: str) -> str:
    best, scratch = answer.best, answer.scratch
    if best is None or best.robustness is None:
        return _no_best(answer)
    if scratch is None or scratch.robustness is None:
        return f"not run: PGD {escape(target)}, the target model adversarially trained from scratch."
    said = [
        f"Relative robustness: {_ratio(answer.relative, best, scratch, 'the model trained from scratch', share=True)}."
    ]
    if best.accuracy is not None and scratch.accuracy is not None:
        points = (best.accuracy - scratch.accuracy) * 100
        said.append(
            f"Clean accuracy: {percent(best.accuracy)} against {percent(scratch.accuracy)} (**{signed(points, 1)} points**)."
        )
    if (
        answer.epsilon is not None
        and answer.epsilon in best.robustness.grid
        and answer.epsilon in scratch.robustness.grid
    ):
        ours, theirs = (row.robustness.robust(answer.epsilon).share for row in (best, scratch) if row.robustness)
        said.append(
            f"Robust accuracy at ε = {answer.epsilon:.4g}: {percent(ours)} against {percent(theirs)} "
            f"({signed((ours - theirs) * 100, 1)} points)."
        )
    return " ".join(said)


def _how_fast(answer: Answer) -> str:
    best, scratch = answer.best, answer.scratch
    if best is None:
        return _no_best(answer)
    if scratch is None or scratch.seconds is None:
        return "not run: the target model adversarially trained from scratch was not trained here."
    if best.seconds is None:
        return f"not run: {escape(best.label)} was not trained here."
    if answer.speed_up is None:
        return "n/a: the models were trained on different machine classes."
    said = [
        f"{escape(best.label)} trained in {seconds(best.seconds)} s, {escape(scratch.label)} from scratch in "
        f"{seconds(scratch.seconds)} s: **{times(answer.speed_up)}**."
    ]
    if answer.speed_up_with_source is not None and answer.source is not None:
        said.append(
            f"With the source model's {seconds(answer.source.seconds)} s counted in: "
            f"{times(answer.speed_up_with_source)}."
        )
    else:
        said.append("With the source model's training counted in: n/a (it was not trained on this machine class).")
    assert best.trained is not None
    return " ".join([*said, f"(Measured on {escape(best.trained.environment.slug)}.)"])


def _no_best(answer: Answer) -> str:
    tested = [row for row in answer.rows if row.robustness]
    if tested:
        return f"n/a: none of {len(tested)} transferred models classifies an image correctly."
    return "not run: no transferred model has a robustness estimate."


def _ratio(ratio: Ratio | None, best: Row, other: Row | None, who: str, *, share: bool) -> str:
    """A ratio with what it divides by and its interval, or why there is none."""
    if other is None or other.robustness is None:
        return f"n/a (not run: {who})"
    name = f"the {_median(other)} of {escape(other.label)}"
    if ratio is None:
        if other.median is None:
            return f"n/a ({escape(other.label)} classifies no image correctly)"
        return f"n/a ({name} cannot be divided by)" if other.median == 0 else "n/a (both medians are censored)"
    relation = {"=": "", "<": "less than ", ">": "more than "}[ratio.relation]
    interval = f"{CONFIDENCE:.0%} interval {_interval(ratio, share=share)}"
    return f"**{relation}{_amount(ratio.value, share=share)}**{' of' if share else ''} {name} ({interval})"


def _interval(ratio: Ratio, *, share: bool) -> str:
    if math.isinf(ratio.high):
        return f"from {_amount(ratio.low, share=share)}"
    return f"{_amount(ratio.low, share=share)} to {_amount(ratio.high, share=share)}"


def _amount(value: float, *, share: bool) -> str:
    return percent(value) if share else f"{value:.3g} times"


def _median(row: Row) -> str:
    return pstar(row.median, row.robustness.grid[-1] if row.robustness else math.nan)


def _kinds(found: Sequence[Answer]) -> str:
    def cell(ratio: Ratio | None) -> str:
        return (
            "n/a" if ratio is None else f"{'' if ratio.relation == '=' else ratio.relation + ' '}{percent(ratio.value)}"
        )

    rows = [
        [
            escape(answer.line),
            escape(answer.best.label) if answer.best else "n/a",
            percent(answer.best.accuracy) if answer.best else "n/a",
            _median(answer.best) if answer.best else "n/a",
            cell(answer.retention),
            cell(answer.relative),
            "n/a" if answer.speed_up is None else f"× {answer.speed_up:.3g}",
            "n/a" if answer.speed_up_with_source is None else f"× {answer.speed_up_with_source:.3g}",
        ]
        for answer in found
    ]
    headers = ["Transfer", "best", "clean accuracy", "median p\\*", "retention", "relative robustness", "speed-up"]
    return table([*headers, "speed-up with source"], rows)
