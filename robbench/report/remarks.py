"""Remarks on an architecture: too few images, where the ranking depends on the view, what the thesis's fields move."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from robbench.gate.verdicts import CONFIDENCE
from robbench.report.ablation import FEW, Effect, effects, fields_that_move
from robbench.report.answers import Change
from robbench.report.markdown import NOTHING, code, escape, percent, pstar, pstar_digits, seconds, signed, table
from robbench.report.ranking import ROBUST, Swap, ranking_epsilon, swaps
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model
from robbench.report.tables import spread_text

_SHOWN = 4
"""Pairs of models that a remark spells out."""


def few_images_remark(group: Group) -> str | None:
    """Models of which so few images are correct that their medians say little; None where there is none."""
    few: dict[str, int] = {}
    for row in group.all_rows:
        count = row.robustness.clean.correct if row.robustness is not None else FEW
        label = f"{row.label} ({row.facts.variant})" if row.facts.variant else row.label
        if count < FEW:
            few[label] = min(count, few.get(label, FEW))  # of several seeds, the one with the fewest
    if not few:
        return None
    named = ", ".join(f"{escape(label)}: {count}" for label, count in few.items())
    return f"**Fewer than {FEW} correct images**: {named}. Their medians, and ratios of them, say little; see the intervals."


def busy_remark(group: Group) -> str | None:
    """Models measured while other work had the cores, so that their seconds are no measure; None where there is none."""
    named = []
    for what, records in (
        ("training", [(row, row.trained) for row in group.all_rows]),
        ("p\\*", [(row, row.tested) for row in group.all_rows]),
    ):
        busy: dict[str, float] = {}
        for row, record in records:
            if record is not None and record.measured_busy:
                label = f"{row.label} ({row.facts.variant})" if row.facts.variant else row.label
                busy[label] = max(record.waiting_for_core, busy.get(label, 0.0))
        if busy:
            named.append(f"{what}: " + ", ".join(f"{escape(label)} {share:.0%}" for label, share in busy.items()))
    if not named:
        return None
    return (
        f"**Measured on a busy machine** ({'; '.join(named)} of the time in line for a core). Their seconds, and every "
        "factor and share of them, tell as much of that as of the models: measure again on an idle one."
    )


def ranking_remark(group: Group) -> str | None:
    """Which models change places between the views; None where fewer than two were tested."""
    if sum(row.robustness is not None for row in group.rows) < 2:
        return None
    pairs: dict[tuple[str, ...], Swap] = {}
    for swap in swaps(group):
        pairs.setdefault(tuple(sorted((swap.above, swap.below))), swap)
    epsilon = ranking_epsilon(group)
    views = "median over correct images, median over common images, robust accuracy"
    views += f" at ε = {epsilon:.4g} over all images" if epsilon is not None else " over all images"
    if not pairs:
        return f"No two models change places between the three views ({views}) beyond noise."
    said = "; ".join(_swap_text(swap, group) for swap in [*pairs.values()][:_SHOWN])
    rest = len(pairs) - _SHOWN
    return (
        f"**The ranking depends on the view** ({views}) for {len(pairs)} pair{'s' * (len(pairs) != 1)} of models, "
        f"beyond a grid step and the {CONFIDENCE:.0%} interval: {said}{f'; and {rest} more' if rest > 0 else ''}."
    )


def _swap_text(swap: Swap, group: Group) -> str:
    end = max(row.robustness.grid[-1] for row in group.rows if row.robustness)

    def show(value: float, view: str) -> str:
        return percent(value) if view == ROBUST else pstar(value, end)

    (a, b), (c, d) = swap.values, swap.others
    return (
        f"{escape(swap.above)} lies above {escape(swap.below)} {swap.first} "
        f"({show(a, swap.first)} against {show(b, swap.first)}) and below it {swap.second} "
        f"({show(c, swap.second)} against {show(d, swap.second)})"
    )


def ablation_section(group: Group) -> list[str]:
    """A sentence on what moves beyond noise, and a table per field; nothing without variants."""
    found = effects(group)
    if not found:
        return []
    moving = fields_that_move(found)
    said = [_field_text(field, moved) for field, moved in moving.items() if moved]
    still = [code(field) for field, moved in moving.items() if not moved]
    parts = [
        "Each model below follows the published code in one field and the study in all others; its change is against "
        f"the same model of the study, on the same images. {CONFIDENCE:.0%} intervals are over images drawn alike for "
        "both; one seed's intervals hold nothing of the noise between two trainings.",
        " ".join(said),
        f"Nothing beyond noise: {', '.join(still)}." if still else "",
    ]
    tables = []
    for field in moving:
        own = [effect for effect in found if effect.field == field]
        tables += [f"{code(field)}:", _ablation_table(own)]
    return [" ".join(part for part in parts if part), *tables]


def _field_text(field: str, moved: Sequence[Effect]) -> str:
    told = "; ".join(
        f"{escape(effect.varied.label)} ({', '.join(_moved_text(effect, figure) for figure in effect.moved)})"
        for effect in moved[:_SHOWN]
    )
    more = f"; and {len(moved) - _SHOWN} more" if len(moved) > _SHOWN else ""
    return f"**{code(field)} moves figures beyond noise**: {told}{more}."


def _moved_text(effect: Effect, figure: str) -> str:
    if figure == "median p*":
        return f"median p\\* {_amount(effect.median, _plain)}"
    name = f"robust accuracy at ε = {effect.epsilon:.4g}" if figure == "robust accuracy" else figure
    return f"{name} {_amount(effect.robust if figure == 'robust accuracy' else effect.accuracy, _points)} points"


def _amount(found: Change | None, show: Callable[[float], str]) -> str:
    return show(found.value) if found else NOTHING


def _plain(value: float) -> str:
    return (
        f"{value:+.4g}" if math.isfinite(value) else "past the grid's end" if value > 0 else "from past the grid's end"
    )


def _points(value: float) -> str:
    return signed(value * 100, 1)


def _ablation_table(found: Sequence[Effect]) -> str:
    epsilon = next((effect.epsilon for effect in found if effect.epsilon is not None), None)
    medians = [model.median for effect in found for model in (effect.base, effect.varied) if model]
    changes = [end for effect in found if (m := effect.median) for end in (m.value, m.low, m.high, *m.seeds.values)]
    digits = pstar_digits(value for value in [*medians, *changes] if value is not None)
    around = f"{CONFIDENCE:.0%} interval"

    def line(effect: Effect) -> list[str]:
        end = next((model.grid_end for model in (effect.varied, effect.base) if model and model.tested), math.nan)
        return [
            escape(effect.varied.label),
            _both(effect, lambda row: row.accuracy, percent),
            *_changed(effect.accuracy, _points),
            _both(effect, lambda row: row.median, lambda value: pstar(value, end, digits)),
            *_changed(effect.median, lambda value: signed(value, digits) if math.isfinite(value) else _plain(value)),
            *_changed(effect.robust, _points),
            _both(effect, lambda row: row.seconds, seconds),
            spread_text(effect.factor, lambda value: f"× {value:.2f}"),
        ]

    robust = f"robust accuracy at ε = {epsilon:.4g}, points" if epsilon is not None else "robust accuracy, points"
    headers = ["Model", "clean accuracy", "points", around, "median p\\*", "change", around, robust, around]
    return table([*headers, "training seconds", "factor"], map(line, found))


def _both(effect: Effect, figure: Callable[[Row], float | None], show: Callable[[float], str]) -> str:
    """The study's own figure, an arrow, and the variant's."""

    def text(model: Model | None) -> str:
        value = model.value(figure) if model else None
        return NOTHING if value is None else show(value)

    return f"{text(effect.base)} → {text(effect.varied)}"


def _changed(found: Change | None, show: Callable[[float], str]) -> tuple[str, str]:
    if found is None:
        return NOTHING, NOTHING
    seeds = found.seeds
    value = f"{show(found.value)} [{show(seeds.low)} to {show(seeds.high)}]" if seeds.count > 1 else show(found.value)
    return value, f"{show(found.low)} to {show(found.high)}"
