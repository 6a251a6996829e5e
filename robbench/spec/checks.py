"""Checks of single values, shared by the specs."""

from __future__ import annotations

import math
from typing import Any, get_args

from robbench.errors import require, unknown


def choice(field: str, value: object, options: Any) -> None:
    """Check that the value is one of a Literal's."""
    known = get_args(options)
    if value not in known:
        raise unknown(field, value, known)


def positive_int(field: str, value: object) -> None:
    """Check an integer ≥ 1."""
    require(isinstance(value, int) and not isinstance(value, bool) and value >= 1, field, "an integer ≥ 1", value)


def number(field: str, value: object, expectation: str, *, low: float, high: float = math.inf) -> None:
    """Check a finite number in (low, high]; ``low`` itself only where the expectation says ≥."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = good and (low <= value if "≥" in expectation else low < value) and value <= high  # type: ignore[operator]
    require(bool(inside), field, expectation, value)
