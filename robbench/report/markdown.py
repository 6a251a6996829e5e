"""Text for people: Markdown tables, escaping, and figures with their units. Nothing here knows a record."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from tabulate import tabulate

from robbench.report.text import printable, printable_lines

NOTHING = "–"
"""Stands for a figure that does not exist."""

_SPECIAL = re.compile(r"([\\`*\[\]|~$])|(?<!\w)(_)|(_)(?!\w)")
"""What means something to Markdown anywhere, or at the border of a word."""

_BEGINNING = re.compile(r"^(\d*)([.)]|[#+=-]+)(?=\s|$)")
"""Of a heading, a list or a rule."""


def escape(text: str) -> str:
    """Text from a record as literal Markdown on one line."""
    plain = " ".join(printable(str(text)).split())
    plain = _SPECIAL.sub(r"\\\g<0>", plain)
    return _BEGINNING.sub(r"\1\\\2", plain).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def code(name: str) -> str:
    """A word as a code span, in a table too: what would end one of them becomes a question mark."""
    return f"`{re.sub(r'[^0-9A-Za-z_.+-]', '?', name)}`"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, first column to the left, the others to the right; cells are Markdown already."""
    lines = [[*row] for row in rows]
    align = ["left", *["right"] * (len(headers) - 1)]
    return _pipe(headers, lines, align)


def text_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table of words: every column to the left."""
    return _pipe(headers, [[*row] for row in rows], ["left"] * len(headers))


def _pipe(headers: Sequence[str], lines: list[list[str]], align: list[str]) -> str:
    return str(tabulate(lines, [*headers], tablefmt="pipe", colalign=align if lines else None, disable_numparse=True))


def fenced(text: str) -> str:
    """A code block, whatever backticks the text holds."""
    text = printable_lines(text)
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{text}\n{fence}"


def percent(share: float | None, digits: int = 1) -> str:
    """A share as ``86.7%``."""
    return NOTHING if share is None or math.isnan(share) else f"{share:.{digits}%}"


def pstar(value: float | None, grid_end: float, digits: int | None = None) -> str:
    """A median p*: ``0.27``, ``> 0.8`` where it is censored, a dash without a correct image."""
    if value is None or math.isnan(value):
        return NOTHING
    return f"> {grid_end:g}" if math.isinf(value) else f"{value:.4g}" if digits is None else f"{value:.{digits}f}"


def pstar_digits(values: Iterable[float]) -> int:
    """Decimals that show all of a column's p* (four at most), so that they stand below one another."""
    texts = [f"{value:.4f}".rstrip("0") for value in values if math.isfinite(value)]
    return max((len(text.partition(".")[2]) for text in texts), default=0)


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


def times(factor: float) -> str:
    """A factor of time: ``64 times faster``, ``0.8 times as fast``."""
    if math.isclose(factor, 1.0, rel_tol=0.005):
        return "as fast"
    return f"{factor:.3g} times {'faster' if factor > 1 else 'as fast'}"


def whole_ranges(numbers: Iterable[int]) -> str:
    """Whole numbers as ``1, 3–7``."""
    runs: list[list[int]] = []
    for number in sorted(set(numbers)):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}–{high}" for low, high in runs)


def model_ranges(names: Iterable[str]) -> str:
    """Names of models with their k (``TL#3 MLP1``) or seed joined: ``PGD EMNIST, TL#1–7 MLP1``."""
    families: dict[str, list[int]] = {}
    for name in names:
        number = re.search(r"TL ?#?(\d+)", name)
        family = re.sub(r"TL ?#?\d+", "TL#", name) if number else name
        families.setdefault(family, []).extend([int(number[1])] if number else [])
    return ", ".join(
        family.replace("TL#", f"TL#{whole_ranges(numbers)}", 1) if numbers else family
        for family, numbers in families.items()
    )
