"""Specs as plain JSON values and back, their digests, and where two differ."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import Field, fields
from typing import Any

from robbench.errors import unknown
from robbench.spec.base import KINDS, Spec


def describe(spec: Any) -> Any:
    """A spec as plain JSON values: what ``canonical()`` gives, or its fields, but as their metadata say."""
    if hasattr(spec, "canonical"):
        return spec.canonical()
    if isinstance(spec, Spec):
        named = {field.name: getattr(spec, field.name) for field in fields(spec) if _described(spec, field)}
        return {"kind": type(spec).__name__, **{name: describe(value) for name, value in named.items()}}
    if isinstance(spec, Mapping):
        return {str(key): describe(value) for key, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [describe(value) for value in spec]
    return spec


def _described(spec: Spec, field: Field[Any]) -> bool:
    usual = field.metadata.get("unusual") and getattr(spec, field.name) == field.default
    return not (usual or field.metadata.get("undescribed"))


def read_spec(described: Any) -> Any:
    """The spec that was described; a RobbenchError if a kind, a field or a value is not known."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they were shown where the spec was declared
        return _read(described)


def _read(described: Any) -> Any:
    if isinstance(described, list):
        return tuple(map(_read, described))
    if not isinstance(described, Mapping):
        return described
    kind = KINDS.get(str(described.get("kind")))
    if kind is None:
        raise unknown("kind of spec", described.get("kind"), KINDS)
    return kind.from_description(**{name: _read(value) for name, value in described.items() if name != "kind"})


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
