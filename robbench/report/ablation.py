"""What each field of the thesis protocol changes: an ablation's models against the same models without it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from robbench.record import ModelFacts
from robbench.report import drawing
from robbench.report.comparisons import Change, accuracy_change, change, robust_change
from robbench.report.markdown import NOTHING, escape, percent, points, pstar, pstar_digits, radius, seconds, signed
from robbench.report.ranking import ranking_epsilon
from robbench.report.rows import FEW, Group, Row
from robbench.report.seeds import Model, models_of


@dataclass(frozen=True, kw_only=True)
class Effect:
    """One model with one field as in the thesis, against the model as its study declares it."""

    varied: Model
    base: Model | None
    accuracy: Change | None
    median: Change | None
    robust: Change | None
    """Robust accuracy at ``epsilon``."""
    epsilon: float | None

    @property
    def field(self) -> str:
        """The field that the variant changes."""
        return self.varied.facts.variant or ""

    @property
    def moved(self) -> tuple[str, ...]:
        """Figures that changed beyond noise (a grid step, a point), but for a median over fewer than FEW correct images."""
        step = next((row.grid_step for row in self.varied.tested), 0.0)
        tested = [row for model in (self.varied, self.base) if model for row in model.tested]
        enough = all((row.correct or 0) >= FEW for row in tested)
        figures = (
            ("median p*", self.median if enough else None, step),
            ("clean accuracy", self.accuracy, 0.01),
            ("robust accuracy", self.robust, 0.01),
        )
        return tuple(name for name, found, least in figures if found and found.beyond_noise(least))


def effects(group: Group) -> tuple[Effect, ...]:
    """Every variant of a group, by field."""
    epsilon = ranking_epsilon(group)
    bases = {_key(model.facts): model for model in models_of(group.rows)}
    found = [_effect(model, bases.get(_key(model.facts)), epsilon) for model in models_of(group.variants)]
    fields = [*dict.fromkeys(effect.field for effect in found)]
    return tuple(sorted(found, key=lambda effect: fields.index(effect.field)))


def _effect(varied: Model, base: Model | None, epsilon: float | None) -> Effect:
    if base is not None:
        seeds = {row.facts.seed for row in varied.rows}
        base = Model(tuple(row for row in base.rows if row.facts.seed in seeds) or base.rows)
    return Effect(
        varied=varied,
        base=base,
        accuracy=accuracy_change(varied, base),
        median=change(varied, base, lambda row: row.median, lambda row: row.resampled_medians),
        robust=robust_change(varied, base, epsilon),
        epsilon=epsilon,
    )


def _key(facts: ModelFacts) -> tuple[object, ...]:
    """What a variant shares with its base: all but the seed, the variant, and the variants of its source."""
    kept = "frozen" if facts.variant == "kept" else facts.kept
    return facts.dataset, facts.method, facts.source, facts.source_method, facts.k, facts.head, kept, facts.objective


def ablation_table(found: Sequence[Effect]) -> pd.DataFrame:
    """One field's effects: the study's own figures, an arrow, the variant's, and the changes with their intervals."""
    epsilon = next((effect.epsilon for effect in found if effect.epsilon is not None), None)
    robust = f"robust accuracy at ε = {radius(epsilon)}, points" if epsilon is not None else "robust accuracy, points"
    headers = ["Model", "clean accuracy", "points", "median p\\*", "change", robust, "training seconds"]
    return pd.DataFrame([_line(effect) for effect in found], columns=headers, dtype=object)


def _line(effect: Effect) -> list[str]:
    end = next((model.grid_end for model in (effect.varied, effect.base) if model and model.tested), math.nan)
    return [
        escape(effect.varied.label),
        _both(effect, lambda row: row.accuracy, percent),
        _changed(effect.accuracy, points),
        _both(effect, lambda row: row.median, lambda value: pstar(value, end)),
        _changed(effect.median, lambda value: median_change(value, pstar_digits(end))),
        _changed(effect.robust, points),
        _both(effect, lambda row: row.seconds, seconds),
    ]


def median_change(value: float, digits: int) -> str:
    """A change of median p* in words where it has no end."""
    if math.isfinite(value):
        return signed(value, digits)
    return "past the grid's end" if value > 0 else "from past the grid's end"


def _both(effect: Effect, figure: Callable[[Row], float | None], show: Callable[[float], str]) -> str:
    values = [model.value(figure) if model else None for model in (effect.base, effect.varied)]
    return " → ".join(NOTHING if value is None else show(value) for value in values)


def _changed(found: Change | None, show: Callable[[float], str]) -> str:
    """A change with its interval: ``-2.0 (-3.1 to -1.0)``."""
    return NOTHING if found is None else f"{show(found.value)} ({show(found.low)} to {show(found.high)})"


def draw_ablation(group: Group) -> bytes:
    """Change of median p* per field and model, with its interval; past the grid's end, an arrowhead at the edge."""
    found = [effect for effect in effects(group) if effect.median]
    heights: list[float] = []
    for at, effect in enumerate(found):
        gap = 1.5 if at and found[at - 1].field != effect.field else 1.0  # half a line more between fields
        heights.append(heights[-1] + gap if heights else 0.0)
    name = drawing.title(group, "one field as in the published code")
    with drawing.canvas(9.0, 1.7 + 0.36 * (heights[-1] + 1), name) as figure:
        axes = figure.subplots()
        axes.axvline(0.0, color="#777777", linewidth=1.0)
        for height, effect in zip(heights, found, strict=True):
            _draw(axes, height, effect)
        axes.set_yticks(heights, [effect.varied.label for effect in found])
        _fields(axes, heights, found)
        axes.set(ylim=(heights[-1] + 0.6, -0.6), xlabel=f"change of median p* ({drawing.UNITS})")
        drawing.tidy(axes, grid="x")
        return drawing.png(figure)


def _fields(axes: Axes, heights: Sequence[float], found: Sequence[Effect]) -> None:
    """The name of each field to the right of its models, and a line between two fields."""
    for field in dict.fromkeys(effect.field for effect in found):
        own = [height for height, effect in zip(heights, found, strict=True) if effect.field == field]
        drawing.beside(axes, field, sum(own) / len(own), fontweight="bold")
        if min(own) > 0:
            axes.axhline(min(own) - 0.75, color="#BBBBBB", linewidth=0.8)


def _draw(axes: Axes, height: float, effect: Effect) -> None:
    change, ink = effect.median, drawing.colour(effect.varied.rows[0])
    assert change is not None
    look: dict[str, Any] = {"color": ink, "markerfacecolor": ink if "median p*" in effect.moved else "white"}
    if math.isinf(change.value):
        edge, marker = (1.0, ">") if change.value > 0 else (0.0, "<")
        beyond: dict[str, Any] = {"clip_on": False, "transform": axes.get_yaxis_transform()}
        axes.plot(edge, height, marker, markersize=9, **look, **beyond)
        return
    if change.low == -math.inf:
        drawing.arrow_to_edge(axes, (change.value, height), "left", ink)
    if change.high == math.inf:
        drawing.arrow_to_edge(axes, (change.value, height), "right", ink)
    low, high = (end if math.isfinite(end) else change.value for end in (change.low, change.high))
    ends = drawing.error_bars(change.value, low, high)
    axes.errorbar(change.value, height, xerr=ends, fmt="o", markersize=7, capsize=3, **look)
    drawing.crosses(axes, change.seeds.values, [height] * change.seeds.count, ink)
