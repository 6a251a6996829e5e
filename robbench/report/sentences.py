"""The study's three questions answered in sentences with figures in them; what was not run is said, never guessed."""

from __future__ import annotations

import math

from robbench.gate.verdicts import CONFIDENCE
from robbench.report.answers import Answer, Change, Ratio, answers
from robbench.report.markdown import escape, percent, pstar, seconds, signed, times, whole_ranges
from robbench.report.rows import Group, dataset_label
from robbench.report.seeds import Model, Spread
from robbench.report.tables import spread_text


def answer_section(group: Group) -> list[str]:
    """The answers of one architecture, for its first kind of transfer, as paragraphs."""
    name, found = escape(group.architecture), answers(group)
    if not found:
        return [f"#### {name}", "not run: no transferred model is among these records."]
    first = found[0]
    row = first.models[0].rows[0]
    target = dataset_label(row.record.data.name)
    about = f"{escape(dataset_label(row.facts.source or ''))} → {escape(target)}"
    seeds = f", {len(group.seeds)} seeds: medians over seeds, [least to greatest]" if len(group.seeds) > 1 else ""
    return [
        f"#### {name}: {about}{seeds}",
        f"1. **Does robustness transfer?** {_does_it_transfer(first)}\n"
        f"2. **How close does it come to adversarial training from scratch?** {_how_close(first, target)}\n"
        f"3. **How much faster is it?** {_how_fast(first)}",
    ]


def _does_it_transfer(answer: Answer) -> str:
    best = answer.best
    if best is None:
        return _no_best(answer)
    tested = [model.facts.k for model in answer.models if model.median is not None and model.facts.k]
    return " ".join(
        [
            f"{escape(best.label)} is the most robust of {len(tested)} transferred model{'s' * (len(tested) != 1)} "
            f"(k = {whole_ranges(tested)}): median p\\* **{_median(best)}** at {_accuracy(best)} clean accuracy.",
            f"Retention: {_ratio(answer.retention, best, answer.source, 'the source model', share=True)}.",
            "Against conventional training on the target: "
            f"{_ratio(answer.over_standard, best, answer.standard, 'the conventionally trained target model', share=False)}.",
            *([_drop_point(answer, best.grid_end)] if len(tested) > 1 else []),
        ]
    )


def _drop_point(answer: Answer, end: float) -> str:
    drop, several = answer.drop, len(answer.drops) > 1
    whose = "In the medians over seeds, p\\*" if several else "Median p\\*"
    if drop is None:
        return f"{whose} never falls from one k to the next.{_by_seed(answer) if several else ''}"
    return (
        f"{whose} falls most after k = {drop.k}: {pstar(drop.before, end)} at k = {drop.k}, "
        f"{pstar(drop.after, end)} at k = {drop.following} (the drop point; the same in {drop.stability:.0%} of the "
        f"bootstrap resamplings).{_by_seed(answer) if several else ''}"
    )


def _by_seed(answer: Answer) -> str:
    """In how many seeds, each by itself, median p* falls as the medians over seeds do, and how in the others."""
    same, count = len(answer.alike), len(answer.drops)
    others = ", ".join(
        f"seed {seed}: {f'after k = {own.k}' if own else 'no fall'}"
        for seed, own in answer.drops.items()
        if seed not in answer.alike
    )
    if not others:
        return f" It is so in each of the {count} seeds."
    if same:
        return f" It is so in {same} of {count} seeds ({others})."
    return (
        f" By itself, no seed has its largest fall there ({others}): the medians at two k may come from two seeds, so "
        "where the drop lies is open."
        if answer.drop
        else f" By itself, every seed falls somewhere ({others})."
    )


def _how_close(answer: Answer, target: str) -> str:
    best, scratch = answer.best, answer.scratch
    if best is None:
        return _no_best(answer)
    if scratch is None or not scratch.tested:
        return f"not run: PGD {escape(target)}, the target model adversarially trained from scratch."
    said = [
        f"Relative robustness: {_ratio(answer.relative, best, scratch, 'the model trained from scratch', share=True)}."
    ]
    if answer.points:
        said.append(f"Clean accuracy: {_accuracy(best)} against {_accuracy(scratch)} ({_points(answer.points)}).")
    if answer.robust_points and answer.epsilon is not None:
        at = answer.epsilon
        ours, theirs = (
            model.value(lambda row: row.robustness.robust(at).share if row.robustness else None)
            for model in (best, scratch)
        )
        said.append(
            f"Robust accuracy at ε = {at:.4g}: {percent(ours)} against {percent(theirs)} "
            f"({_points(answer.robust_points)})."
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
    no_measure = ", which is no measure, since the machine was busy with other work"
    busy = _measured_busy(best) or _measured_busy(scratch)
    factor = _times(answer.speed_up) + no_measure if busy else f"**{_times(answer.speed_up)}**"
    said = [
        f"{escape(best.label)} trained in {seconds(best.seconds)} s, {escape(scratch.label)} from scratch in "
        f"{seconds(scratch.seconds)} s: {factor}."
    ]
    if answer.speed_up_with_source is not None and answer.source is not None:
        said.append(
            f"With the source model's {seconds(answer.source.seconds)} s counted in: "
            f"{_times(answer.speed_up_with_source)}{no_measure if busy or _measured_busy(answer.source) else ''}."
        )
    else:
        said.append("With the source model's training counted in: n/a (it was not trained on this machine class).")
    machines = sorted({row.trained.environment.slug for row in best.rows if row.trained})
    return " ".join([*said, f"(Measured on {escape(', '.join(machines))}.)"])


def _measured_busy(model: Model) -> bool:
    return any(row.trained.measured_busy for row in model.rows if row.trained)


def _no_best(answer: Answer) -> str:
    tested = [model for model in answer.models if model.tested]
    if tested:
        return f"n/a: none of {len(tested)} transferred models classifies an image correctly."
    return "not run: no transferred model has a robustness estimate."


def _ratio(ratio: Ratio | None, best: Model, other: Model | None, who: str, *, share: bool) -> str:
    """A ratio with what it divides by, its interval and its seeds, or why there is none."""
    if other is None or not other.tested:
        return f"n/a (not run: {who})"
    name = f"the {_median(other)} of {escape(other.label)}"
    if ratio is None:
        if other.median is None:
            return f"n/a ({escape(other.label)} classifies no image correctly)"
        return f"n/a ({name} cannot be divided by)" if other.median == 0 else "n/a (both medians are censored)"
    relation = {"=": "", "<": "less than ", ">": "more than "}[ratio.relation]
    around = f"{CONFIDENCE:.0%} interval {_interval(ratio, share=share)}{_seeds(ratio.seeds, share=share)}"
    return f"**{relation}{_amount(ratio.value, share=share)}**{' of' if share else ''} {name} ({around})"


def _interval(ratio: Ratio, *, share: bool) -> str:
    if math.isinf(ratio.high):
        return f"from {_amount(ratio.low, share=share)}"
    return f"{_amount(ratio.low, share=share)} to {_amount(ratio.high, share=share)}"


def _seeds(seeds: Spread, *, share: bool) -> str:
    if seeds.count == 1:
        return ""
    return f"; {seeds.count} seeds: {_amount(seeds.low, share=share)} to {_amount(seeds.high, share=share)}"


def _amount(value: float, *, share: bool) -> str:
    return percent(value) if share else f"{value:.3g} times"


def _points(found: Change) -> str:
    value, low, high, least, most = (
        signed(share * 100, 1) for share in (found.value, found.low, found.high, found.seeds.low, found.seeds.high)
    )
    seeds = f"; {found.seeds.count} seeds: {least} to {most}" if found.seeds.count > 1 else ""
    return f"**{value} points**, {CONFIDENCE:.0%} interval {low} to {high}{seeds}"


def _median(model: Model) -> str:
    return spread_text(model.spread(lambda row: row.median), lambda value: pstar(value, model.grid_end))


def _accuracy(model: Model) -> str:
    return spread_text(model.spread(lambda row: row.accuracy), percent)


def _times(found: Spread) -> str:
    spread = f" [× {found.low:.3g} to × {found.high:.3g}]" if found.count > 1 else ""
    return f"{times(found.value)}{spread}"
