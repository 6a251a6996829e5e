"""Data sets, attacks and recipes: how a network is trained."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Literal

from robbench.errors import require
from robbench.spec.canonical import UNDESCRIBED
from robbench.spec.catalogue import DATASETS, plain_name
from robbench.spec.checks import FARTHEST, Checked, choice, file_name, number, positive_int, radius, random_seed

STD = (1e-6, 1e6)
"""Least and greatest standard deviation of a normalisation: float32 pixels are divided by it."""

FASTEST = 1e6
"""The largest learning rate or weight decay that is taken: far beyond any that trains, and torch refuses what float32, or
for an integer 64 bits, cannot hold in the midst of an update."""


@dataclass(frozen=True, kw_only=True)
class Dataset(Checked):
    """A labelled image set: one that robbench knows, or a prepared array file by its name."""

    name: str
    train: int | None = None
    """At most this many images of the training set (a seeded choice), for training and validation; None: all."""
    test: int | None = field(default=None, metadata=UNDESCRIBED)
    """At most this many images of the test set; None: all."""
    validation: float = 0.2
    """Share of the training images held out for validation."""
    augmentation: Literal["none", "crop-flip"] | None = None
    """None: what the literature trains the dataset with."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean and standard deviation of the normalisation inside the model; None: the literature's, if any."""
    std: tuple[float, ...] | None = None
    orientation: Literal["upright", "stored"] = "upright"
    """Upright, or transposed as torchvision stores EMNIST (thesis)."""
    split: Literal["disjoint", "overlapping"] = "disjoint"
    """Train and validation images disjoint, or drawn with two permutations (thesis)."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            plain_name(self.name),
            "dataset name",
            "a plain name such as 'mnist'",
            self.name,
        )
        file_name("dataset name", self.name)
        for name in ("train", "test"):
            if getattr(self, name) is not None:
                positive_int(f"dataset {name}", getattr(self, name))
        number("dataset validation", self.validation, "a share in (0, 1)", low=0.0, high=0.99)
        facts = DATASETS.get(self.name)
        if self.augmentation is None:
            object.__setattr__(self, "augmentation", facts.augmentation if facts else "none")
        require(
            (self.mean is None) == (self.std is None), "dataset mean and std", "both or none", (self.mean, self.std)
        )
        if self.mean is None and facts is not None:
            object.__setattr__(self, "mean", facts.mean)
            object.__setattr__(self, "std", facts.std)
        for value in self.mean or ():
            number("dataset mean", value, "a number between -1e6 and 1e6", low=-STD[1], high=STD[1])
        for value in self.std or ():
            number("dataset std", value, "a number ≥ 1e-6 and ≤ 1e6", low=STD[0], high=STD[1])
        random_seed("dataset seed", self.seed)
        require(
            self.mean is None or self.std is None or len(self.mean) == len(self.std),
            "dataset mean and std",
            "as many values",
            (self.mean, self.std),
        )
        choice("augmentation", self.augmentation, Literal["none", "crop-flip"])
        choice("orientation", self.orientation, Literal["upright", "stored"])
        choice("split", self.split, Literal["disjoint", "overlapping"])


@dataclass(frozen=True, kw_only=True)
class PGD(Checked):
    """Projected gradient descent in the L∞ ball (Madry et al. 2018)."""

    steps: int
    epsilon: float | None = None
    """Radius in pixel units; None where the grid of an estimate gives it."""
    step_size: float | None = None
    """Pixel units; None: ε ÷ steps."""
    random_start: bool = True
    box: tuple[float, float] = (0.0, 1.0)
    """Range of valid pixels."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("PGD steps", self.steps)
        if self.epsilon is not None:
            radius("PGD epsilon", self.epsilon, "a radius > 0 in pixel units")
        if self.step_size is not None:
            radius("PGD step_size", self.step_size, "a step > 0 in pixel units")
        low, high = self.box
        require(
            -FARTHEST <= low < high <= FARTHEST,
            "PGD box",
            f"(low, high) with -{FARTHEST:g} ≤ low < high ≤ {FARTHEST:g}",
            self.box,
        )
        if self.epsilon and self.step_size and self.steps * self.step_size < self.epsilon * (1 - 1e-9):
            warnings.warn(
                f"PGD: {self.steps} steps of {self.step_size:g} cannot reach the radius {self.epsilon:g}", stacklevel=3
            )


@dataclass(frozen=True, kw_only=True)
class StepLR(Checked):
    """Multiply the learning rate by gamma every ``step`` epochs."""

    step: int
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("StepLR step", self.step)
        number("StepLR gamma", self.gamma, "a factor in (0, 1]", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class MultiStepLR(Checked):
    """Multiply the learning rate by gamma at each of the milestones (epochs)."""

    milestones: tuple[int, ...]
    gamma: float

    def __post_init__(self) -> None:
        super().__post_init__()
        for milestone in self.milestones:
            positive_int("MultiStepLR milestones", milestone)
        require(
            list(self.milestones) == sorted(set(self.milestones)),
            "MultiStepLR milestones",
            "increasing epochs",
            self.milestones,
        )
        number("MultiStepLR gamma", self.gamma, "a factor in (0, 1]", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class OneCycle(Checked):
    """Linear warm-up to the learning rate, then linear decay to zero, per update (Smith and Topin 2018)."""

    warm_up: float = 0.3
    """Share of all updates."""

    def __post_init__(self) -> None:
        super().__post_init__()
        number("OneCycle warm_up", self.warm_up, "a share in (0, 1)", low=0.0, high=0.99)


Schedule = StepLR | MultiStepLR | OneCycle


@dataclass(frozen=True, kw_only=True)
class EarlyStopping(Checked):
    """Stop when the watched figure has not improved for ``patience`` epochs.

    Conventional training watches validation accuracy, adversarial training the moving average over ``window`` epochs
    of validation robust accuracy; counting starts once the window is full.
    """

    patience: int = 6
    window: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("EarlyStopping patience", self.patience)
        positive_int("EarlyStopping window", self.window)


@dataclass(frozen=True, kw_only=True)
class Objective(Checked):
    """What an update minimises: the base of every objective."""


@dataclass(frozen=True, kw_only=True)
class CrossEntropy(Objective):
    """The mean cross-entropy of the images that are trained on, attacked where the recipe attacks them."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Checked):
    """How to train: conventional without an ``attack``, adversarial with one."""

    optimiser: Literal["adam", "sgd"]
    learning_rate: float
    weight_decay: float
    batch_size: int
    epochs: int
    momentum: float = 0.9
    """SGD only."""
    schedule: Schedule | None = None
    clip_norm: float | None = 1.0
    early_stopping: EarlyStopping | None = None
    attack: PGD | None = None
    validation_attack: PGD | None = None
    """None: the attack itself."""
    ramp_epochs: float = 0.0
    """The radius (and step) grows linearly from 0 over this many epochs."""
    statistics: Literal["batch", "running"] = "batch"
    """Batch-norm and dropout in the update step: training mode, or the eval mode an attack left behind (thesis)."""
    kept_epoch: Literal["robust", "clean", "last"] = "robust"
    """Which epoch is kept: best validation robust accuracy (clean where there is no attack), best clean, or last."""
    objective: Objective = CrossEntropy()
    precision: Literal["float32", "bf16"] = "float32"
    """float32, whose products and convolutions a GPU of compute capability 8 or later makes in TF32: it rounds their
    factors to 10 bits of mantissa and adds up in float32. bf16: forward and backward under autocast. Validation is as
    training; p* is always estimated in float32, without TF32."""

    def __post_init__(self) -> None:
        super().__post_init__()
        choice("optimiser", self.optimiser, Literal["adam", "sgd"])
        number("learning_rate", self.learning_rate, "a number > 0 and at most 1e6", low=0.0, high=FASTEST)
        number("weight_decay", self.weight_decay, "a number ≥ 0 and at most 1e6", low=0.0, high=FASTEST)
        number("momentum", self.momentum, "a number ≥ 0 and below 1", low=0.0, high=0.9999)
        number("ramp_epochs", self.ramp_epochs, "a number ≥ 0", low=0.0)
        positive_int("batch_size", self.batch_size)
        positive_int("epochs", self.epochs)
        if self.clip_norm is not None:
            number("clip_norm", self.clip_norm, "a norm > 0", low=0.0)
        for name in ("attack", "validation_attack"):
            attack = getattr(self, name)
            require(attack is None or attack.epsilon is not None, f"{name} epsilon", "a radius for training", None)
        require(
            self.attack is not None or self.validation_attack is None,
            "validation_attack",
            "none without an attack",
            self.validation_attack,
        )
        choice("statistics", self.statistics, Literal["batch", "running"])
        choice("kept_epoch", self.kept_epoch, Literal["robust", "clean", "last"])
        choice("precision", self.precision, Literal["float32", "bf16"])

    @property
    def adversarial(self) -> bool:
        """Whether the recipe trains on adversarial images."""
        return self.attack is not None
