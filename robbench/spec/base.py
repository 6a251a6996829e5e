"""What every spec is: a frozen value, checked by pydantic when it is built."""

from __future__ import annotations

import re
from dataclasses import Field as DataclassField
from dataclasses import field, fields
from functools import wraps
from typing import Annotated, Any, ClassVar, Self, dataclass_transform

from annotated_types import Predicate
from pydantic import ConfigDict, Field, GetCoreSchemaHandler, ValidationError
from pydantic.dataclasses import dataclass
from pydantic_core import CoreSchema, core_schema

from robbench.errors import RobbenchError, unknown
from robbench.spec.own_code import remember

UNDESCRIBED = {"undescribed": True}
"""Metadata of a field that results do not depend on: it is not described."""

UNUSUAL = {"unusual": True}
"""Metadata of a field that is described only where it is not its default."""

KINDS: dict[str, type[Spec]] = {}
"""Every class of specs by its name, a user's own included."""

_STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def within(box: tuple[float, float], field: str, radius: float | None) -> None:
    """Raise a :class:`RobbenchError` where a radius is larger than the range of pixels, as one in levels of 255 is."""
    width = box[1] - box[0]
    if radius is not None and radius > width * (1 + 1e-9):
        meant = f"; did you mean {radius:g}/255?" if 1 <= radius <= 255 * width else ""
        raise RobbenchError(f"{field}: expected a radius ≤ {width:g}, as pixels lie in {box}, got {radius:g}{meant}")


class Expected:
    """Annotates a type with what an error says of it: ``PGD steps: expected an integer ≥ 1, got 0``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.custom_error_schema(handler(source), "expected", custom_error_message=self._text)


PositiveInt = Annotated[int, Field(ge=1), Expected("an integer ≥ 1")]
Count = Annotated[int, Field(ge=0), Expected("an integer ≥ 0")]
Number = Annotated[float, Expected("a number")]
Positive = Annotated[float, Field(gt=0), Expected("a number > 0")]
NonNegative = Annotated[float, Field(ge=0), Expected("a number ≥ 0")]
Momentum = Annotated[float, Field(ge=0, lt=1), Expected("a number ≥ 0 and < 1")]
Radius = Annotated[float, Field(gt=0), Expected("a number > 0 in pixel units")]
Share = Annotated[float, Field(gt=0, le=1), Expected("a number > 0 and ≤ 1")]
Part = Annotated[float, Field(gt=0, lt=1), Expected("a number > 0 and < 1")]
Box = Annotated[
    tuple[float, float], Predicate(lambda box: box[0] < box[1]), Expected("(low, high) with numbers low < high")
]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
class Spec:
    """Base of all specs. A child declares fields as a dataclass does; it becomes a frozen, keyword-only one.

    A field with ``field(kw_only=False)`` may be given by its place.

    A value of another type than its field's, or outside its range, raises a :class:`RobbenchError`. Rules between
    fields belong in ``__post_init__``.
    """

    __dataclass_fields__: ClassVar[dict[str, DataclassField[Any]]]

    def __init_subclass__(cls) -> None:
        KINDS[cls.__name__] = cls
        if cls.__module__.partition(".")[0] != "robbench":
            remember(cls.__module__)
        dataclass(frozen=True, kw_only=True, config=_STRICT)(cls)
        checked = cls.__init__

        @wraps(checked)
        def init(self: Spec, *first: Any, **values: Any) -> None:
            try:
                checked(self, *first, **values)
                return
            except ValidationError as error:
                fault = _fault(cls, error)
            raise fault  # after the except block, so that pydantic's error is not shown above it

        cls.__init__ = init  # type: ignore[assignment]

    @classmethod
    def from_description(cls, **values: Any) -> Self:
        """The spec whose described form has these values."""
        return cls(**values)


def _fault(kind: type[Spec], error: ValidationError) -> RobbenchError:
    """What is wrong with the first bad field, in one sentence."""
    faults = error.errors(include_url=False)
    placed = [each["input"] for each in faults if each["type"] == "unexpected_positional_argument"]
    if placed:
        name = next(each.name for each in fields(kind) if each.kw_only)
        return RobbenchError(f"{kind.__name__}: expected every value by its name ({name}=…), got {placed[0]!r} without")
    unasked = [each for each in faults if each["type"] == "unexpected_keyword_argument"]
    first = [*unasked, *faults][0]
    if isinstance(own := first.get("ctx", {}).get("error"), RobbenchError):  # raised in __post_init__
        return own
    if not first["loc"]:  # another ValueError of a child's __post_init__
        return RobbenchError(f"{kind.__name__}: {first['msg']}")
    name, value = str(first["loc"][0]), first["input"]
    if first["type"] == "unexpected_keyword_argument":
        return unknown(f"field of {kind.__name__}", name, [each.name for each in fields(kind)])
    if first["type"] == "missing":
        return RobbenchError(f"{kind.__name__} {name}: expected a value, none was given")
    if first["type"] == "literal_error" and isinstance(value, str):
        return unknown(name, value, re.findall(r"'([^']*)'", first["ctx"]["expected"]))
    said = [each["msg"].removeprefix("Input should be ") for each in faults if each["loc"][0] == name]
    return RobbenchError(f"{kind.__name__} {name}: expected {' or '.join(dict.fromkeys(said))}, got {value!r}")
