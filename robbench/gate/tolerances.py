"""How much a figure may change before it counts."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from robbench.errors import require, unknown


@dataclass(frozen=True, kw_only=True)
class Tolerances:
    """How much a figure may change before it counts; a suite's marker may set each."""

    pstar: float = 0.05
    """Share of the baseline's median p*; a change must also exceed one grid step."""
    accuracy: float = 0.01
    """As a share: 0.01 is one point."""
    seconds: float = 1.25
    """Factor on the baseline's seconds; inf shows them without ever failing."""
    seconds_floor: float = 2.0
    """Seconds by which a stage must be slower at all."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value, low = getattr(self, field.name), 1.0 if field.name == "seconds" else 0.0
            require(
                isinstance(value, int | float) and value >= low, f"tolerance {field.name}", f"a number ≥ {low:g}", value
            )

    @classmethod
    def of(cls, given: dict[str, Any]) -> Tolerances:
        """Tolerances from a marker's keywords; a RobbenchError for an unknown one, or a value out of range."""
        known = [field.name for field in fields(cls)]
        for key in given:
            if key not in known:
                raise unknown("tolerance", key, known)
        return cls(**given)
