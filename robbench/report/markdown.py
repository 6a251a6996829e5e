"""Figures and names as text: tables, percentages, p*, seconds, signs. Nothing here knows a record."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

NOTHING = "–"
"""Stands for a figure that does not exist."""

_SPECIAL = re.compile(r"[\\`*\[\]|~$<>]|(?<!\w)_|_(?!\w)")
"""What means something to Markdown anywhere, or at the border of a word."""


def escape(text: object) -> str:
    """A user's name or note as literal Markdown on one line."""
    return _SPECIAL.sub(r"\\\g<0>", " ".join(str(text).split()))


def table(frame: pd.DataFrame, others: str = "right") -> str:
    """A Markdown table, its first column to the left; cells are Markdown already."""
    return frame.to_markdown(index=False, disable_numparse=True, colalign=["left", *[others] * (frame.shape[1] - 1)])


def percent(share: float | None, digits: int = 1) -> str:
    """A share as ``86.7%``."""
    return NOTHING if share is None or math.isnan(share) else f"{share:.{digits}%}"


def pstar(value: float | None, grid_end: float) -> str:
    """A median p*: ``0.270``, ``> 0.8`` where it is censored, a dash without a correct image."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"> {radius(grid_end)}" if math.isinf(value) else f"{value:.{pstar_digits(grid_end)}f}"


def pstar_digits(grid_end: float) -> int:
    """Decimals of every p* on a grid: four on those that end below 0.2, as CIFAR's do, else three."""
    return 4 if grid_end < 0.2 else 3


def radius(epsilon: float) -> str:
    """A radius of the study: ``0.3``, and ``8/255`` where it is so many grey levels."""
    levels = epsilon * 255
    return f"{round(levels)}/255" if 0 < epsilon < 0.1 and abs(levels - round(levels)) < 1e-6 else f"{epsilon:.4g}"


def seconds(value: float | None, digits: int | None = None) -> str:
    """Seconds with as many digits as mean anything, or as their column has."""
    if value is None:
        return NOTHING
    return f"{value:,.{seconds_digits([value]) if digits is None else digits}f}"


def seconds_digits(values: Iterable[float]) -> int:
    """Decimals of a column of seconds: none from 100 s on, two where the least is below 10 s."""
    least = min(values, default=math.inf)
    return 0 if least >= 100 else 1 if least >= 10 else 2


def signed(value: float, digits: int) -> str:
    """A difference with its sign, none where it rounds to zero."""
    text = f"{value:+.{digits}f}"
    return f"{0:.{digits}f}" if float(text) == 0 else text


def points(share: float) -> str:
    """A difference of shares in points: ``+4.3``."""
    return signed(share * 100, 1)


def times(factor: float) -> str:
    """A factor of time: ``64 times faster``, ``0.8 times as fast``."""
    if math.isclose(factor, 1.0, rel_tol=0.005):
        return "as fast"
    return f"{factor:.3g} times {'faster' if factor > 1 else 'as fast'}"


def many(count: int, what: str) -> str:
    """``1 model``, ``2 models``."""
    return f"{count} {what}{'s' * (count != 1)}"
