"""Checks of single values, shared by the specs."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from robbench.errors import require, unknown


def choice(field: str, value: object, options: Any) -> None:
    """Check that the value is one of a Literal's."""
    known = get_args(options)
    if value not in known:
        raise unknown(field, value, known)


FARTHEST = 1e4
"""The largest radius, step or pixel that is taken, in pixel units: images lie in [0, 1]."""

LONGEST_NAME = 100
"""Bytes of a name that becomes a file's or a folder's; file systems take 255, endings and all."""


def integer(field: str, value: object, *, low: int) -> None:
    """Check an integer ≥ low that 64 bits hold."""
    good = isinstance(value, int) and not isinstance(value, bool)
    require(good and low <= value, field, f"an integer ≥ {low}", value)  # type: ignore[operator]
    require(value < 2**63, field, "an integer below 2**63", value)  # type: ignore[operator]


def positive_int(field: str, value: object) -> None:
    """Check an integer ≥ 1."""
    integer(field, value, low=1)


def random_seed(field: str, value: object) -> None:
    """Check an integer that every generator of random numbers takes: 0 … 2**63 - 1."""
    integer(field, value, low=0)


def file_name(field: str, name: str) -> None:
    """Check that a text is not too long to name a file."""
    size = len(name.encode())
    require(size <= LONGEST_NAME, field, f"at most {LONGEST_NAME} bytes, as it names files", size)


def number(field: str, value: object, expectation: str, *, low: float, high: float = math.inf) -> None:
    """Check a number in (low, high] that a float can hold; ``low`` itself only where the expectation says ≥."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    inside = good and (low <= value if "≥" in expectation else low < value) and value <= high  # type: ignore[operator]
    require(bool(inside), field, expectation, value)


def radius(field: str, value: float, expectation: str, *, low: float = 0.0) -> None:
    """Check a radius or step as :func:`number` does, and that it is not far larger than any image."""
    number(field, value, expectation, low=low)
    require(value <= FARTHEST, field, f"at most {FARTHEST:g} in pixel units, as images lie in [0, 1]", value)


class Checked:
    """Base of the specs: a value of another type than its field's is refused when it is written down.

    Numbers and choices are left to :func:`number`, :func:`integer` and :func:`choice`, which also know the range.
    """

    def __post_init__(self) -> None:
        kind = type(self)
        for name, hint in _hints(kind).items():  # type: ignore[arg-type]
            value = getattr(self, name)
            require(_fits(value, hint), f"{kind.__name__} {name}", _said(hint), value)


@cache
def _hints(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _fits(value: object, hint: Any) -> bool:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, option) for option in inside)
    if origin is Literal or hint in (int, float):
        return not isinstance(value, list | tuple | Mapping | Checked)
    if origin is tuple:
        same = len(inside) == 2 and inside[1] is Ellipsis
        return isinstance(value, tuple) and (
            all(_item(entry, inside[0]) for entry in value)
            if same
            else len(value) == len(inside) and all(map(_item, value, inside))
        )
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(_fits(entry, inside[1]) for entry in value.values())
    return isinstance(value, hint)


def _item(value: object, hint: Any) -> bool:
    """As :func:`_fits`, for an entry of a tuple, whose numbers nothing else looks at."""
    if hint in (int, float):
        return isinstance(value, int if hint is int else int | float) and not isinstance(value, bool)
    return _fits(value, hint)


def _said(hint: Any) -> str:
    origin, inside = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(_said(option) for option in inside)
    if hint is NoneType:
        return "None"
    if origin is tuple:
        listed = [_said(entry) for entry in inside if entry is not Ellipsis]
        return f"a tuple of {listed[0]}" if Ellipsis in inside else f"({', '.join(listed)})"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping to {_said(inside[1])}"
    return "a choice" if origin is Literal else {"int": "int", "str": "a text"}.get(hint.__name__, hint.__name__)
