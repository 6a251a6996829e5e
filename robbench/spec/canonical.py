"""The canonical form of a spec, its digest, and where two differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

UNDESCRIBED = {"undescribed": True}
"""Metadata of a dataclass field that is no part of the canonical form."""

WHERE_GIVEN = {"where_given": True}
"""Metadata of a field that is left out while it has its default: digests from before it existed stay what they are."""


def describe(spec: Any) -> Any:
    """A spec as plain JSON values, without fields that results do not depend on (``metadata=UNDESCRIBED``).

    A spec that is identified by something other than its fields has a method ``canonical``.
    """
    if hasattr(spec, "canonical"):
        return spec.canonical()
    if is_dataclass(spec):
        named = [
            field.name
            for field in fields(spec)
            if not field.metadata.get("undescribed")
            and not (field.metadata.get("where_given") and getattr(spec, field.name) == field.default)
        ]
        return {"kind": type(spec).__name__, **{name: describe(getattr(spec, name)) for name in named}}
    if isinstance(spec, Mapping):
        return {str(key): describe(value) for key, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [describe(value) for value in spec]
    return spec


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain values: sorted keys, no spaces, integral floats as integers."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return value


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two described specs differ, as ``recipe.attack.epsilon: 0.2 → 0.02``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if _canonical(old) == _canonical(new) else [f"{path}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
