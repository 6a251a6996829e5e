"""What to run: frozen values that a suite file declares, checked when built.

A :class:`Study` lists its :class:`Model` cases in dependency order. Every spec has a canonical form
(:func:`describe`), from which a stage's digest is taken. Nothing here needs torch.
"""

from robbench.errors import RobbenchError
from robbench.spec.base import Spec
from robbench.spec.certified import Bounded, Bounds, Verifier
from robbench.spec.description import describe, differences, digest_of, read_spec
from robbench.spec.estimate import Audit, EpsilonGrid, Estimate
from robbench.spec.model import ESTIMATION_VERSION, TRAINING_VERSION, Checkpoint, Model, Transfer, code_of, edited_code
from robbench.spec.objectives import ARD, DARD, IBP, MART, RSLAD, TRADES, TWINS, DicePGD, LwF
from robbench.spec.prediction import Drift
from robbench.spec.protocol import EFFECTS, PROTOCOL_FIELDS, Protocol
from robbench.spec.searches import Attack, Ensemble, Search, attack
from robbench.spec.study import Also, FromScratch, Quick, Study, Transfers
from robbench.spec.training import (
    PGD,
    CrossEntropy,
    Dataset,
    EarlyStopping,
    MultiStepLR,
    Objective,
    OneCycle,
    Recipe,
    StepLR,
)

__all__ = [
    "ARD",
    "DARD",
    "EFFECTS",
    "ESTIMATION_VERSION",
    "IBP",
    "MART",
    "PGD",
    "PROTOCOL_FIELDS",
    "RSLAD",
    "TRADES",
    "TRAINING_VERSION",
    "TWINS",
    "Also",
    "Attack",
    "Audit",
    "Bounded",
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
    "Protocol",
    "Quick",
    "Recipe",
    "RobbenchError",
    "Search",
    "Spec",
    "StepLR",
    "Study",
    "Transfer",
    "Transfers",
    "Verifier",
    "attack",
    "code_of",
    "describe",
    "differences",
    "digest_of",
    "edited_code",
    "read_spec",
]
