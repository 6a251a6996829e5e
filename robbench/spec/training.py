"""Data sets, attacks and recipes: how a network is trained."""

from __future__ import annotations

import warnings
from dataclasses import field
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

from annotated_types import Predicate

from robbench.errors import require
from robbench.spec.base import (
    UNDESCRIBED,
    Box,
    Count,
    Expected,
    Momentum,
    NonNegative,
    Number,
    Part,
    Positive,
    PositiveInt,
    Radius,
    Share,
    Spec,
    within,
)
from robbench.spec.catalogue import DATASETS, plain_name


class Dataset(Spec):
    """A labelled image set: one that robbench knows, or a prepared array file by its name."""

    name: Annotated[str, Predicate(plain_name), Expected("a plain name such as 'mnist'")]
    train: PositiveInt | None = None
    """At most this many images (a seeded choice), for training and validation; None: all."""
    test: PositiveInt | None = field(default=None, metadata=UNDESCRIBED)
    """At most this many images; None: all."""
    validation: Part = 0.2
    """Share of the training images kept for validation."""
    augmentation: Literal["none", "crop-flip"] | None = None
    """None: what the literature trains the dataset with."""
    mean: tuple[Number, ...] | None = None
    """Of each channel, for the normalisation inside the model; None: the literature's, if any."""
    std: tuple[Positive, ...] | None = None
    orientation: Literal["upright", "stored"] = "upright"
    """Upright, or transposed as torchvision stores EMNIST (thesis)."""
    split: Literal["disjoint", "overlapping"] = "disjoint"
    """Train and validation images disjoint, or drawn with two permutations (thesis)."""
    seed: Count = 0

    def __post_init__(self) -> None:
        both = self.mean, self.std
        require((self.mean is None) == (self.std is None), "Dataset mean and std", "both or none", both)
        require(len(self.mean or ()) == len(self.std or ()), "Dataset mean and std", "as many values", both)
        facts = DATASETS.get(self.name)
        if self.augmentation is None:
            object.__setattr__(self, "augmentation", facts.augmentation if facts else "none")
        if self.mean is None and facts is not None:
            object.__setattr__(self, "mean", facts.mean)
            object.__setattr__(self, "std", facts.std)


class PGD(Spec):
    """Projected gradient descent in the L∞ ball (Madry et al. 2018)."""

    steps: PositiveInt
    epsilon: Radius | None = None
    """Radius in pixel units; None where the grid of an estimate gives it."""
    step_size: Radius | None = None
    """Pixel units; None: ε ÷ steps."""
    random_start: bool = True
    box: Box = (0.0, 1.0)
    """Range of valid pixels."""

    def __post_init__(self) -> None:
        for name in ("epsilon", "step_size"):
            within(self.box, f"PGD {name}", getattr(self, name))
        if self.epsilon and self.step_size and self.steps * self.step_size < self.epsilon * (1 - 1e-9):
            message = f"PGD: {self.steps} steps of {self.step_size:g} cannot reach the radius {self.epsilon:g}"
            warnings.warn(message, stacklevel=4)


class StepLR(Spec):
    """Multiply the learning rate by gamma every ``step`` epochs."""

    step: PositiveInt
    gamma: Share


class MultiStepLR(Spec):
    """Multiply the learning rate by gamma at each of the milestones (epochs)."""

    milestones: Annotated[
        tuple[PositiveInt, ...],
        Predicate(lambda milestones: all(early < late for early, late in pairwise(milestones))),
        Expected("a tuple of increasing epochs ≥ 1"),
    ]
    gamma: Share


class OneCycle(Spec):
    """Linear warm-up to the learning rate, then linear decay to zero, per update (Smith and Topin 2018)."""

    warm_up: Part = 0.3
    """Share of all updates."""


Schedule = StepLR | MultiStepLR | OneCycle


class EarlyStopping(Spec):
    """Stop after ``patience`` epochs in which the mean validation accuracy of the last ``window`` did not improve.

    Adversarial training watches robust accuracy. Counting starts once the window is full.
    """

    patience: PositiveInt = 6
    window: PositiveInt = 1


class Objective(Spec):
    """Base of losses: a child holds the settings, ``robbench.training.objectives.loss_function`` the computation."""

    parents: ClassVar[tuple[str, ...]] = ()
    """Roles of the parent networks that the loss needs."""


class CrossEntropy(Objective):
    """Cross-entropy of the images that the recipe trains on."""


class Recipe(Spec):
    """How to train: conventional without an ``attack``, adversarial with one."""

    optimiser: Literal["adam", "sgd"]
    learning_rate: Positive
    weight_decay: NonNegative
    batch_size: PositiveInt
    epochs: PositiveInt
    momentum: Momentum = 0.9
    """SGD only."""
    schedule: Schedule | None = None
    clip_norm: Positive | None = 1.0
    early_stopping: EarlyStopping | None = None
    objective: Objective = CrossEntropy()
    attack: PGD | None = None
    validation_attack: PGD | None = None
    """None: the attack itself."""
    ramp_epochs: NonNegative = 0.0
    """Radius and step grow linearly from 0 over this many epochs."""
    statistics: Literal["batch", "running"] = "batch"
    """Mode of batch norm and dropout in updates: training, or eval (thesis)."""
    kept_epoch: Literal["robust", "clean", "last"] = "robust"
    """The epoch of the best robust (clean without an attack) or clean validation accuracy, or the last."""
    precision: Literal["float32", "bf16"] = "float32"
    """Of training and validation. float32: in TF32 where the GPU has it. bf16: autocast. p* is always in float32."""

    def __post_init__(self) -> None:
        for name, attack in (("attack", self.attack), ("validation_attack", self.validation_attack)):
            require(attack is None or attack.epsilon is not None, f"Recipe {name} epsilon", "a radius", None)
        alone = self.attack is None and self.validation_attack is not None
        require(not alone, "Recipe validation_attack", "none without an attack", self.validation_attack)

    @property
    def adversarial(self) -> bool:
        """Whether the recipe trains on adversarial images."""
        return self.attack is not None
