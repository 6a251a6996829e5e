"""The one exception robbench raises for bad input, and its usual wording."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RobbenchError(ValueError):
    """Bad input: the message says what was expected, what came, and what to do."""


def unknown(what: str, value: object, known: Iterable[str]) -> RobbenchError:
    """The error for a name that is none of ``known``, with the nearest valid name."""
    options = sorted(known)
    near = get_close_matches(str(value), options, n=1)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    return RobbenchError(f"unknown {what} {value!r}; expected one of {', '.join(options)}{hint}")


def require(condition: bool, field: str, expectation: str, value: object) -> None:
    """Raise a :class:`RobbenchError` that names field, expectation and value unless ``condition`` holds."""
    if not condition:
        raise RobbenchError(f"{field}: expected {expectation}, got {value!r}")
