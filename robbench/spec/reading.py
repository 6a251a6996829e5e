"""From a described spec, as records hold it, back to the spec."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from robbench.errors import RobbenchError, unknown
from robbench.spec.model import Checkpoint, EpsilonGrid, Estimate, Model, Transfer
from robbench.spec.training import PGD, Dataset, EarlyStopping, MultiStepLR, OneCycle, Recipe, StepLR

_KINDS: dict[str, Any] = {
    kind.__name__: kind
    for kind in (
        PGD,
        Dataset,
        EarlyStopping,
        EpsilonGrid,
        Estimate,
        Model,
        MultiStepLR,
        OneCycle,
        Recipe,
        StepLR,
        Transfer,
    )
} | {"Checkpoint": Checkpoint.known}


def read_spec(described: Any) -> Any:
    """The spec that :func:`robbench.spec.describe` made these plain values of; what it left out has its default.

    Raises:
        RobbenchError: a kind or field is unknown, or a value is none that the spec takes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever declared the spec has seen them
        return _read(described)


def _read(described: Any) -> Any:
    if isinstance(described, list):
        return tuple(map(_read, described))
    if not isinstance(described, Mapping):
        return described
    kind = described.get("kind")
    if not isinstance(kind, str) or kind not in _KINDS:
        raise unknown("kind of spec", kind, _KINDS)
    fields = {name: _read(value) for name, value in described.items() if name != "kind"}
    try:
        return _KINDS[kind](**fields)
    except TypeError as error:  # a field that is missing, unknown, or of a type that a check cannot even compare
        raise RobbenchError(
            f"{kind}: expected the fields of a described spec, got {sorted(fields)} ({error})"
        ) from error
