"""Certified radii beside p*: tables, answers, and every image's bracket as a picture."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from robbench.record import LowerBounds, Robustness
from robbench.report import comparisons, drawing
from robbench.report.answers import best_transfer, scratch_model
from robbench.report.choice import accuracy_floor, may_be_crowned
from robbench.report.comparisons import fixed_epsilons
from robbench.report.markdown import NOTHING, escape, percent, pstar, radius
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, Spread, models_of, source_model, spread

PANELS = 12
"""Most models whose images are drawn; of more, the best of each kind of transfer."""


@dataclass(frozen=True, kw_only=True)
class CertifiedAnswer:
    """A kind of transfer at the k with the largest certified radius, against the models that it is held to."""

    line: str
    best: Model | None
    """Figures of these models are certified radii in place of p*."""
    source: Model | None
    standard: Model | None
    scratch: Model | None
    """From scratch on the target: trained to be certified where there is such a model, else adversarially."""
    retention: comparisons.Ratio | None
    relative: comparisons.Ratio | None
    speed_up: Spread | None


def as_certified(group: Group) -> Group:
    """The group with certified radii in the place of p*, on the images that were bounded."""
    return replace(group, rows=tuple(view for row in group.rows if (view := _view(row))), variants=())


def _view(row: Row) -> Row | None:
    record, bounds = row.bounded, row.bounds
    if record is None or bounds is None:
        return None
    result = Robustness(
        grid=bounds.grid, attack={}, search="certified", images=bounds.images, pstar=bounds.lower, forward=0, backward=0
    )
    return replace(row, tested=msgspec.structs.replace(record, stage="robustness", result=result), also=(), others=())


def certified_answers(group: Group) -> list[CertifiedAnswer]:
    """For every kind of transfer how much certified radius it keeps; none without bounds of a transfer."""
    view = as_certified(group)
    return [_answer(view, line) for line in view.lines]


def _answer(view: Group, line: str) -> CertifiedAnswer:
    models = models_of(view.of(line))
    target = models[0].facts.dataset
    choice = best_transfer([model for model in models if may_be_crowned(model, accuracy_floor(view, target))])
    best = choice.model if choice else None
    source, standard = source_model(view, best or models[0]), scratch_model(view, target, "standard")
    scratch = scratch_model(view, target, "ibp") or scratch_model(view, target, "pgd")
    return CertifiedAnswer(
        line=line,
        best=best,
        source=source,
        standard=standard,
        scratch=scratch,
        retention=comparisons.median_ratio(choice, source),
        relative=comparisons.median_ratio(choice, scratch),
        speed_up=comparisons.speed_up(scratch, [best]),
    )


def certified_table(group: Group) -> pd.DataFrame | None:
    """Both sides of every model on its bounded images: medians, share exact, and accuracies at fixed radii."""
    models = [model for model in models_of(group.all_rows) if any(row.bounds for row in model.rows)]
    if not models:
        return None
    grid = next(row.bounds.grid for model in models for row in model.rows if row.bounds)
    epsilons = fixed_epsilons(grid)[:2]
    lines = []
    for model in models:
        found = [row.bounds for row in model.rows if row.bounds]
        constant = any(each.one_class is not None for each in found)
        shares = [f"{_share(found, epsilon, 'certified')} … {_share(found, epsilon, 'robust')}" for epsilon in epsilons]
        lines.append(
            [
                escape(model.rows[0].name) + (" (one class)" if constant else ""),
                f"{len(found[0].images):,}",
                _percent(each.accuracy.share for each in found),
                _radius([each.median for each in found], grid),
                _radius([each.median_pstar for each in found], grid),
                _percent(each.exact.share for each in found if each.exact.total),
                *shares,
            ]
        )
    header = ["Model", "images", "clean accuracy", "median certified radius", "median p\\*", "exact"]
    header += [f"certified … robust accuracy at ε = {radius(epsilon)}" for epsilon in epsilons]
    return pd.DataFrame(lines, columns=header, dtype=object)


def _share(found: Sequence[LowerBounds], epsilon: float, side: str) -> str:
    return _percent(getattr(each, side)(epsilon).share for each in found)


def _percent(values: Iterable[float]) -> str:
    found = spread(values)
    return NOTHING if found is None else percent(found.value)


def _radius(values: Sequence[float | None], grid: Sequence[float]) -> str:
    found = spread(values)
    return NOTHING if found is None else pstar(found.value, grid[-1])


def one_class(group: Group) -> list[str]:
    """Models that give every image one class: their certified radii say nothing."""
    rows = [(row, row.bounds) for row in group.all_rows]
    return [f"{row.name} ({bounds.one_class})" for row, bounds in rows if bounds and bounds.one_class is not None]


@dataclass(frozen=True, kw_only=True)
class Verified:
    """What a complete verifier decided of a model, and what p* was before it spoke."""

    name: str
    bounds: LowerBounds
    lowered: int
    """Images whose p* its counterexamples lower."""
    unchanged: int
    """Images that it was asked about and whose p* is exact, and was before."""
    largest: float | None
    """Largest p* of the search ÷ ε*, of those that are exact; None without one."""


def exactness(group: Group) -> list[Verified]:
    """Models that a complete verifier was asked about."""
    found = [(row, row.bounds) for row in group.all_rows]
    return [_verified(row, bounds) for row, bounds in found if bounds is not None and bounds.verified]


def _verified(row: Row, bounds: LowerBounds) -> Verified:
    grid, upper = [*bounds.grid, math.inf], dict(zip(bounds.images, bounds.upper, strict=True))
    searched = dict(zip(row.robustness.images, row.robustness.pstar, strict=True)) if row.robustness else upper
    lower = dict(zip(bounds.images, bounds.lower, strict=True))
    exact = [image for image in bounds.verified if lower[image] + 1 == upper[image]]
    known = [(searched[image], upper[image]) for image in exact if upper[image] < len(bounds.grid)]
    return Verified(
        name=row.name,
        bounds=bounds,
        lowered=sum(searched[image] > upper[image] for image in bounds.verified),
        unchanged=sum(searched[image] == upper[image] for image in exact),
        largest=max((grid[before] / grid[now] for before, now in known), default=None),
    )


def draw_brackets(group: Group) -> bytes:
    """Every bounded image of a model in order of p*: from its certified radius to p*, exact ones as a line."""
    rows = [row for row in group.rows if row.bounds and row.bounds.right and row.facts.seed == group.seeds[0]]
    shown = rows if len(rows) <= PANELS else _chosen(group, rows)
    across = min(4, len(shown))
    with drawing.canvas(
        3.6 * across,
        2.9 * -(-len(shown) // across) + 0.7,
        drawing.title(group, "certified radius and p* of every image"),
    ) as figure:
        panels = drawing.panels(figure, len(shown), across)
        for panel, row in zip(panels, shown, strict=True):
            assert row.bounds is not None
            _bracket(panel, row, row.bounds)
        top = max(
            row.bounds.grid[max(low, min(high, len(row.bounds.grid) - 1))]
            for row in shown
            if row.bounds
            for low, high in row.bounds.right
        )
        panels[0].set_ylim(0, 1.03 * top)
        panels[0].set_ylabel(f"radius ({drawing.UNITS})")
        keys = [
            Line2D([], [], color="black", linewidth=1.4, label="p*: a counterexample is known"),
            Patch(facecolor="#C9D7E8", label="not decided"),
            Line2D([], [], color="#0072B2", linewidth=1.4, label="certified: no counterexample below"),
        ]
        drawing.legend_below(figure, keys, 3)
        return drawing.png(figure)


def _chosen(group: Group, rows: Sequence[Row]) -> list[Row]:
    """The models from scratch, and of every kind of transfer the one with the largest median certified radius."""
    best = [
        max(own, key=lambda row: (row.bounds.median or 0.0) if row.bounds else 0.0)
        for line in group.lines
        if (own := [row for row in rows if row.line == line])
    ]
    return [*(row for row in rows if not row.facts.k), *best][:PANELS]


def _bracket(panel: Axes, row: Row, bounds: LowerBounds) -> None:
    grid = np.asarray([*bounds.grid, bounds.grid[-1]])
    pairs = sorted(bounds.right, key=lambda pair: (pair[1], pair[0]))
    low, high = (grid[[pair[side] for pair in pairs]] for side in (0, 1))
    share = np.arange(len(pairs) + 1) / len(pairs)
    low, high = np.append(low, low[-1]), np.append(high, high[-1])
    panel.fill_between(share, low, high, step="post", color="#C9D7E8", linewidth=0)
    panel.step(share, low, where="post", color="#0072B2", linewidth=1.2)
    panel.step(share, high, where="post", color="black", linewidth=1.2)
    panel.set_title(row.label, fontsize=9)
    panel.set(xlim=(0, 1), xlabel="share of the correct images")
    panel.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    drawing.tidy(panel)
