"""Can a network keep its adversarial robustness when its last layers are retrained on other data.

A suite file needs the names below only; importing them does not import torch, but for ``load_model``.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robbench.errors import RobbenchError
    from robbench.models import load_model
    from robbench.spec import (
        ARD,
        DARD,
        IBP,
        MART,
        PGD,
        RSLAD,
        TRADES,
        TWINS,
        Also,
        Audit,
        Bounds,
        Checkpoint,
        CrossEntropy,
        Dataset,
        DicePGD,
        Drift,
        EarlyStopping,
        Ensemble,
        EpsilonGrid,
        Estimate,
        FromScratch,
        LwF,
        Model,
        MultiStepLR,
        Objective,
        OneCycle,
        Quick,
        Recipe,
        Search,
        StepLR,
        Study,
        Transfer,
        Transfers,
        Verifier,
        attack,
        recipes,
    )

__all__ = [
    "ARD",
    "DARD",
    "IBP",
    "MART",
    "PGD",
    "RSLAD",
    "TRADES",
    "TWINS",
    "Also",
    "Audit",
    "Bounds",
    "Checkpoint",
    "CrossEntropy",
    "Dataset",
    "DicePGD",
    "Drift",
    "EarlyStopping",
    "Ensemble",
    "EpsilonGrid",
    "Estimate",
    "FromScratch",
    "LwF",
    "Model",
    "MultiStepLR",
    "Objective",
    "OneCycle",
    "Quick",
    "Recipe",
    "RobbenchError",
    "Search",
    "StepLR",
    "Study",
    "Transfer",
    "Transfers",
    "Verifier",
    "attack",
    "load_model",
    "recipes",
]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first used: pytest loads the plugin in every run, and most need no spec."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import_module("robbench.spec.recipes")
    room = "robbench.models" if name == "load_model" else "robbench.spec"
    globals()[name] = value = getattr(import_module(room), name)
    return value
