"""Can a network keep its adversarial robustness when its last layers are retrained on other data.

A suite file needs the names below only; importing them does not import torch.
"""

from robbench.errors import RobbenchError
from robbench.spec import (
    PGD,
    Audit,
    Checkpoint,
    Dataset,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    Model,
    MultiStepLR,
    OneCycle,
    Quick,
    Recipe,
    StepLR,
    Study,
    Transfer,
    Transfers,
    recipes,
)

__all__ = [
    "PGD",
    "Audit",
    "Checkpoint",
    "Dataset",
    "EarlyStopping",
    "EpsilonGrid",
    "Estimate",
    "Model",
    "MultiStepLR",
    "OneCycle",
    "Quick",
    "Recipe",
    "RobbenchError",
    "StepLR",
    "Study",
    "Transfer",
    "Transfers",
    "recipes",
]
