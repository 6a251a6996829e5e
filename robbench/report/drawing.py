"""How every figure looks: colours, canvas, axes. Matplotlib's object-oriented API only, no global state."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import matplotlib.style
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from robbench.report.rows import Group, Row
from robbench.report.seeds import Model

DPI = 150
UNITS = "L∞, pixels in [0, 1]"

_METHODS = {"standard": "#6B6B6B", "pgd": "#D55E00", "checkpoint": "#E69F00"}
_TRANSFERS = {
    ("transfer", "linear"): "#0072B2",
    ("transfer-adversarial", "linear"): "#CC79A7",
    ("transfer", "mlp1"): "#009E73",
    ("transfer", "mlp2"): "#56B4E9",
    ("transfer", "mlp3"): "#332288",
}
_KEPT = {"finetuned": "#A6761D", "warm": "#117733", "critical": "#AA4499", "lora": "#DDCC77"}
_FROM_STANDARD, _OTHER = "#999933", "#882255"
_FROM_ANOTHER, _BY_OBJECTIVE = "#661100", "#44AA99"


@dataclass(frozen=True)
class Picture:
    """A figure as a file; what is said below it is in ``templates/pictures.md.j2``, by its kind."""

    kind: str
    name: str
    png: bytes


def colour(row: Row) -> str:
    """The colour of a model's method: the same in every figure (after Okabe and Ito, safe for colour-blind readers)."""
    facts = row.facts
    if facts.k is None:
        return _METHODS.get(facts.method, _OTHER)
    if facts.source_method == "standard":
        return _FROM_STANDARD
    if facts.objective:
        return _BY_OBJECTIVE
    if facts.source_method not in (None, "pgd", "checkpoint"):
        return _FROM_ANOTHER
    return _KEPT.get(facts.kept or "") or _TRANSFERS.get((facts.method, facts.head), _OTHER)


_OF_K = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#882255", "#999933", "#332288")


def of_k(k: int) -> str:
    """The colour of a transfer among the others of its kind, by k: neighbours differ most."""
    return _OF_K[(k - 1) % len(_OF_K)]


def is_source(group: Group, model: Model) -> bool:
    """Whether a model was trained on the data that transfers start from."""
    return model.facts.dataset in {row.facts.source for row in group.rows}


def untransferred(models: Sequence[Model]) -> str:
    """What models that were not transferred have in common."""
    return "not transferred" if any(model.facts.method == "checkpoint" for model in models) else "trained from scratch"


def lighter(ink: str) -> str:
    """A colour halfway to white, opaque."""
    return "#" + "".join(f"{(int(ink[at : at + 2], 16) + 255) // 2:02X}" for at in (1, 3, 5))


@contextmanager
def canvas(width: float, height: float, title: str | None = None) -> Iterator[Figure]:
    """A figure of so many inches with a title, in matplotlib's own style whatever the user's settings.

    Text is drawn as it stands: dollar signs make no formula, and letters that the font lacks are boxes.
    """
    style = matplotlib.style.context(["default", {"text.parse_math": False}], after_reset=True)
    with style, warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from")
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        if title:
            figure.suptitle(title, fontweight="bold")
        yield figure


def png(figure: Figure) -> bytes:
    """The figure as PNG, without a date or a version in it."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"optimize": True})
    return data.getvalue()


def panels(figure: Figure, count: int, across: int) -> list[Axes]:
    """So many panels that share their axes, in rows of ``across``."""
    grid = figure.subplots(-(-count // across), across, sharex=True, sharey=True, squeeze=False).ravel()
    for panel in grid[count:]:
        panel.set_visible(False)
    return [*grid[:count]]


def legend_below(figure: Figure, handles: Sequence[Artist], columns: int = 1, **look: Any) -> None:
    """One legend for all panels."""
    figure.legend(handles=handles, loc="outside lower center", frameon=False, fontsize=9, ncols=columns, **look)


def censored_band(axes: Axes, end: float, last: float, low: float, middle: float, high: float) -> None:
    """Ticks of p* up to ``last``, and a hatched band for what was never fooled; all but ``end`` in units of it."""
    axes.axhspan(low * end, high * end, facecolor="#F4F4F4", edgecolor="#CCCCCC", hatch="////", linewidth=0)
    ticks = MaxNLocator(8, steps=[1, 2, 2.5, 5, 10]).tick_values(0, end)
    ticks = [tick for tick in ticks if 0 <= tick <= last * end]
    axes.set_yticks([*ticks, middle * end], [*(f"{tick:.4g}" for tick in ticks), "never\nfooled"])
    axes.set_ylim(0, high * end)


def beside(axes: Axes, text: str, height: float, **look: Any) -> None:
    """A text to the right of the axes."""
    axes.annotate(text, (1.01, height), xycoords=("axes fraction", "data"), va="center", annotation_clip=False, **look)


def tidy(axes: Axes, *, grid: str = "y") -> None:
    """A light grid behind the data, no box around it."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    axes.grid(axis=grid, color="#DDDDDD", linewidth=0.7)  # type: ignore[arg-type]


def title(group: Group, what: str) -> str:
    """A figure's title: which network, and how many seeds where there are several."""
    return study_title([group], f"{group.architecture}: {what}")


def study_title(groups: Sequence[Group], what: str) -> str:
    """The title of a figure of all a study's networks."""
    seeds = len({seed for group in groups for seed in group.seeds})
    return f"{what} ({seeds} seeds)" if seeds > 1 else what


def error_bars(value: float, low: float, high: float) -> list[list[float]]:
    """The lengths that matplotlib's errorbar asks for, from an interval; none below 0."""
    return [[max(0.0, value - low)], [max(0.0, high - value)]]


def crosses(axes: Axes, across: Sequence[float], up: Sequence[float], ink: str) -> None:
    """A cross per seed where there are several."""
    if len(across) > 1:
        axes.plot(across, up, "x", color=ink, markersize=5, alpha=0.8)


def arrow_to_edge(axes: Axes, start: tuple[float, float], edge: Literal["left", "right", "top"], ink: str) -> None:
    """An interval from a point to an edge of the axes, with an arrowhead there: it goes on past it."""
    stop, units = {
        "left": ((0.0, start[1]), ("axes fraction", "data")),
        "right": ((1.0, start[1]), ("axes fraction", "data")),
        "top": ((start[0], 1.0), ("data", "axes fraction")),
    }[edge]
    head = {"arrowstyle": "-|>", "color": ink, "linewidth": 1.5, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 11}
    axes.annotate("", stop, start, xycoords=units, textcoords="data", arrowprops=head)


def file_name(*parts: str) -> str:
    """Parts joined to a plain file name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", "-".join(part for part in parts if part)).lstrip(".") + ".png"
