"""What to run: frozen values that a suite file declares, checked when built.

A :class:`Study` lists its :class:`Model` cases in dependency order. Every spec has a canonical form
(:func:`describe`), from which a stage's digest is taken. Nothing here needs torch.
"""

from robbench.spec.canonical import describe, differences, digest_of
from robbench.spec.model import (
    ESTIMATION_VERSION,
    TRAINING_VERSION,
    Audit,
    Checkpoint,
    EpsilonGrid,
    Estimate,
    Head,
    Kept,
    Model,
    Transfer,
)
from robbench.spec.protocol import EFFECTS, PROTOCOL_FIELDS, Protocol, ProtocolField
from robbench.spec.reading import read_spec
from robbench.spec.study import Quick, Study, Transfers
from robbench.spec.training import (
    PGD,
    CrossEntropy,
    Dataset,
    EarlyStopping,
    MultiStepLR,
    Objective,
    OneCycle,
    Recipe,
    Schedule,
    StepLR,
)

__all__ = [
    "EFFECTS",
    "ESTIMATION_VERSION",
    "PGD",
    "PROTOCOL_FIELDS",
    "TRAINING_VERSION",
    "Audit",
    "Checkpoint",
    "CrossEntropy",
    "Dataset",
    "EarlyStopping",
    "EpsilonGrid",
    "Estimate",
    "Head",
    "Kept",
    "Model",
    "MultiStepLR",
    "Objective",
    "OneCycle",
    "Protocol",
    "ProtocolField",
    "Quick",
    "Recipe",
    "Schedule",
    "StepLR",
    "Study",
    "Transfer",
    "Transfers",
    "describe",
    "differences",
    "digest_of",
    "read_spec",
]
