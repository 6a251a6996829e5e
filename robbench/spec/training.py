"""Data sets, attacks and recipes: how a network is trained."""

from __future__ import annotations

import warnings
from dataclasses import field
from itertools import pairwise
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from annotated_types import Predicate
from pydantic import BeforeValidator

from robbench.errors import require
from robbench.spec.base import (
    UNDESCRIBED,
    UNUSUAL,
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
    """A labelled image set: one that robbench knows, a prepared file by its name, or pictures (with a ``size``).

    Pictures are image files of any size, brought to one: decoded as torchvision's ImageFolder does, the shorter side
    resized to ``resize``, and the central ``size`` x ``size`` pixels taken. They lie in ``folder``, or on the ``hub``, or
    with neither in the folder of this name in the data folder.
    """

    name: Annotated[str, Predicate(plain_name), Expected("a plain name such as 'mnist'")]
    train: PositiveInt | None = None
    """At most this many images (a seeded choice), for training and validation; None: all."""
    test: PositiveInt | None = field(default=None, metadata=UNDESCRIBED)
    """At most this many images; None: all."""
    validation: Part = 0.2
    """Share of the training images kept for validation."""
    augmentation: Literal["none", "crop-flip", "resized-crop-flip"] | None = None
    """None: what the literature trains the dataset with; pictures in colour with resized crops, in grey with none."""
    mean: tuple[Number, ...] | None = None
    """Of each channel, for the normalisation inside the model; None: the literature's, if any."""
    std: tuple[Positive, ...] | None = None
    orientation: Literal["upright", "stored"] = "upright"
    """Upright, or transposed as torchvision stores EMNIST (thesis)."""
    split: Literal["disjoint", "overlapping"] = "disjoint"
    """Train and validation images disjoint, or drawn with two permutations (thesis)."""
    seed: Count = 0
    folder: Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, Path) else path)] | None = field(
        default=None, metadata=UNDESCRIBED
    )
    """Where the pictures lie: ``train``, and ``test`` or ``val``, with a folder for each class; folders of classes,
    which are split; or webdataset's shards (``train-000.tar``)."""
    hub: str | None = field(default=None, metadata=UNUSUAL)
    """The name by which Hugging Face's ``datasets`` loads the pictures: ``owner/name`` or ``owner/name:config``."""
    size: PositiveInt | None = field(default=None, metadata=UNUSUAL)
    """Side in pixels that pictures are brought to."""
    resize: PositiveInt | None = field(default=None, metadata=UNUSUAL)
    """Shorter side before the central crop; None: 8/7 of the size with resized crops (256 for 224), else the size."""
    channels: Literal[1, 3] = field(default=3, metadata=UNUSUAL)
    """Of pictures: 1 turns them to grey."""
    held_out: Part = field(default=0.2, metadata=UNUSUAL)
    """Share of each class to test on, where the pictures come in one part."""
    crop_area: Share = field(default=0.08, metadata=UNUSUAL)
    """Least share of a picture's area in a resized crop."""
    skip_broken: bool = field(default=False, metadata=UNUSUAL)
    """Go on without pictures that cannot be read, which are an error otherwise."""

    def __post_init__(self) -> None:
        self._check_pictures()
        both = self.mean, self.std
        require((self.mean is None) == (self.std is None), "Dataset mean and std", "both or none", both)
        require(len(self.mean or ()) == len(self.std or ()), "Dataset mean and std", "as many values", both)
        facts = DATASETS.get(self.name)
        if self.augmentation is None:
            usual = facts.augmentation if facts else "none"
            photographs = self.size is not None and self.channels == 3 and facts is None
            object.__setattr__(self, "augmentation", "resized-crop-flip" if photographs else usual)
        if self.size is not None and self.resize is None:
            larger = round(self.size * 8 / 7) if self.augmentation == "resized-crop-flip" else self.size
            object.__setattr__(self, "resize", larger)
        if self.mean is None and facts is not None:
            object.__setattr__(self, "mean", facts.mean)
            object.__setattr__(self, "std", facts.std)

    def _check_pictures(self) -> None:
        """Raise a RobbenchError where a field of pictures stands without a size, or two do not go together."""
        if self.size is None:
            pictures = ("folder", "hub", "resize", "channels", "held_out", "crop_area", "skip_broken")
            given = [name for name in pictures if getattr(self, name) != getattr(Dataset, name)]
            how = "the side in pixels that pictures are brought to (size=224)"
            require(not given, "Dataset size", f"{how}, as {given and given[0]} is given", None)
            crops = self.augmentation == "resized-crop-flip"
            require(not crops, "Dataset size", f"{how}, for resized crops", None)
            return
        require(self.folder is None or self.hub is None, "Dataset folder and hub", "one of them", self.folder)
        large = self.resize is None or self.resize >= self.size
        require(large, "Dataset resize", f"at least the size, {self.size}", self.resize)
        require(self.orientation == "upright", "Dataset orientation", "upright for pictures", self.orientation)


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
    passes: ClassVar[int] = 1
    """How often an update passes each image through the student, forward and backward."""
    looks: ClassVar[int] = 0
    """How often the attack passes it forward before its first step."""
    on_images: ClassVar[bool] = False
    """Whether the loss needs the images themselves, and cannot start from the features of frozen blocks."""
    needs_attack: ClassVar[bool] = False
    """Whether it is of attacked images."""

    def check(self, recipe: Recipe) -> None:
        """Raise a RobbenchError where a recipe does not go with this objective."""
        attacked = recipe.attack is not None or not self.needs_attack
        expected = f"a PGD with {type(self).__name__}, which trains on attacked images"
        require(attacked, "Recipe attack", expected, None)


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
    awp: NonNegative = field(default=0.0, metadata=UNUSUAL)
    """γ of adversarial weight perturbation (Wu et al. 2020, arXiv 2004.05884): an update takes its gradient where each
    layer's weights have moved by γ times their norm to a larger loss; 0.005 in the paper, 0: none."""
    class_weights: Literal["none", "balanced"] = field(default="none", metadata=UNUSUAL)
    """balanced: an image's cross-entropy counts N ÷ (classes · images of its class) times (King and Zeng 2001)."""

    def __post_init__(self) -> None:
        for name, attack in (("attack", self.attack), ("validation_attack", self.validation_attack)):
            require(attack is None or attack.epsilon is not None, f"Recipe {name} epsilon", "a radius", None)
        weighted = self.class_weights == "none" or isinstance(self.objective, CrossEntropy)
        require(
            weighted, "Recipe class_weights", "none beside an objective other than CrossEntropy", self.class_weights
        )
        self.objective.check(self)
        require(self.awp == 0 or self.attack is not None, "Recipe awp", "0 without an attack", self.awp)
        alone = self.attack is None and self.validation_attack is not None
        require(not alone, "Recipe validation_attack", "none without an attack", self.validation_attack)

    @property
    def method(self) -> str:
        """What it minimises, where that is not plain cross-entropy: ``trades``, ``lwf``, ``awp``, ``trades-awp``."""
        plain = isinstance(self.objective, CrossEntropy)
        return "-".join(["" if plain else type(self.objective).__name__.lower(), "awp" * (self.awp > 0)]).strip("-")

    @property
    def adversarial(self) -> bool:
        """Whether the recipe trains on adversarial images."""
        return self.attack is not None
