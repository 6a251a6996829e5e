"""What came out of a stage: records, their JSON, and the figures that follow from a robustness distribution. No torch."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from robbench.errors import require

SCHEMA = "robbench.record/1"

MISCLASSIFIED = -1
"""Stands in ``Robustness.pstar`` for an image that the network misclassifies unperturbed."""

UNREADABLE = (msgspec.MsgspecError, ValueError)
"""What decoding raises where a file does not hold what is expected."""

Number = Annotated[int, msgspec.Meta(ge=0)]
Duration = Annotated[float, msgspec.Meta(ge=0)]
"""In seconds."""
Radius = Annotated[float, msgspec.Meta(ge=0)]
"""In pixel units."""

Figures = dict[str, float | int | bool | None]
"""What a stage came to, by name: plain, finite values."""


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable, equal by value, and strict JSON."""


class Counts(Struct, frozen=True, kw_only=True):
    """So many of so many images."""

    correct: int
    total: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.total:
            raise ValueError(f"expected a count from 0 to {self.total}, got {self.correct}")

    @property
    def share(self) -> float:
        """Correct ÷ total; NaN of no images."""
        return self.correct / self.total if self.total else math.nan


BUSY = 0.1
"""Share of the time waiting for a core above which seconds do not measure a stage."""


class Seconds(Struct, frozen=True, kw_only=True):
    """Durations of a stage by purpose, in seconds."""

    training: Duration = 0.0
    validation: Duration = 0.0
    estimation: Duration = 0.0
    """The p* search and its confirmation."""
    warm_up: Duration = 0.0
    """Discarded runs before the clock starts, and captures of a training's CUDA graphs."""
    io: Duration = 0.0
    """Reading data and writing checkpoints."""
    waiting_for_core: Duration = 0.0
    """Part of ``measured`` in which the thread that waited longest waited for a core; 0 except on Linux."""
    waiting_for_data: Duration = 0.0
    """Part of ``training`` in which updates waited for images to be read or decoded."""

    @property
    def measured(self) -> float:
        """What the gate compares: training or estimation alone."""
        return self.training + self.estimation

    @property
    def total(self) -> float:
        """Everything, as the published seconds of a training stage."""
        return self.training + self.validation + self.estimation + self.warm_up + self.io


class Environment(Struct, frozen=True, kw_only=True):
    """Where a stage ran; seconds compare within one ``slug``, a class of machines, only."""

    slug: str
    device: str
    cpu: str
    cores: int
    threads: int
    system: str
    python: str
    robbench: str
    torch: str
    torchvision: str
    cuda: str | None = None
    cudnn: str | None = None
    driver: str | None = None
    tf32: bool | None = None
    """torch's setting for convolutions; None without CUDA."""
    commit: str | None = None
    dirty: bool | None = None
    deterministic: bool | None = None
    matmul_precision: str | None = None
    cudnn_benchmark: bool | None = None
    host: str | None = None
    """Name of the machine."""


class DataUsed(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The images a stage really used."""

    name: str
    train: Number
    validation: Number
    test: Number
    sha256: str
    """Fingerprint of images, labels and class names."""
    test_limit: int | None = None
    """The spec's limit of test images; None: all."""
    folder: str | None = None
    """Where pictures lie, as the spec says it."""


class ModelFacts(Struct, frozen=True, kw_only=True):
    """What tables and figures need to know of a model; ``source`` is the dataset of its source model."""

    architecture: str
    dataset: str
    method: str
    """standard, pgd, transfer, transfer-adversarial or checkpoint."""
    source: str | None = None
    source_case: str | None = None
    source_method: str | None = None
    k: Annotated[int, msgspec.Meta(ge=1)] | None = None
    blocks: Number
    head: str = "linear"
    kept: str | None = None
    objective: str | None = None
    """What a transfer minimises where that is not plain cross-entropy: ``trades``, ``lwf``; else ``method`` says it."""
    seed: Number = 0
    variant: str | None = None
    """The field of the thesis protocol that a model of an ablation follows."""
    mean: tuple[float, ...] | None = None
    """Of the normalisation in front of the network, in pixel units of [0, 1]; None: it sees plain pixels."""
    std: tuple[float, ...] | None = None
    parameters: Number
    trainable: Number


class Epoch(Struct, frozen=True, kw_only=True):
    """One epoch of a training history."""

    epoch: Number
    loss: float
    learning_rate: float
    train: Counts
    """Of the images trained on, as the updates saw them."""
    validation: Counts
    robust: Counts | None = None
    """Validation images still right under the validation attack."""
    seconds: Duration
    validation_seconds: Duration


class Training(Struct, frozen=True, kw_only=True):
    """How a training stage went. Empty history: the weights came from a user's checkpoint."""

    epochs: list[Epoch]
    best: int
    """The kept epoch, whose accuracies follow; 0 for a checkpoint."""
    stopped_early: bool
    validation: Counts
    robust: Counts | None = None
    forward: Number
    """Images passed forward, all purposes."""
    backward: Number
    tf32: bool | None = None
    """Whether training multiplied in TF32; None without CUDA or without updates."""

    def figures(self) -> Figures:
        """The figures that pytest-benchmark's JSON and JUnit XML get."""
        return {"epochs": len(self.epochs), "validation_accuracy": self.validation.share}


class AttackAccuracy(Struct, frozen=True, kw_only=True):
    """Robust accuracy under one attack at one radius."""

    attack: str
    """``fgsm``, ``pgd``, or the name of another library's attack with its options."""
    epsilon: Radius
    steps: Number | None = None
    step_size: Radius | None = None
    """None of another library's attack, as the steps."""
    robust: Counts
    """Images right unperturbed and attacked, of all test images."""


class Against(Struct, frozen=True, kw_only=True):
    """An attack at one radius against the search, which fools an image if its p* ≤ epsilon."""

    epsilon: float
    images: int
    both: int
    attack_alone: int
    search_alone: int


class Audit(Struct, frozen=True, kw_only=True):
    """Whether the attack could be trusted, by a sample of the correctly classified images."""

    images: int
    one_class: bool = False
    """Whether all of them have one label, although the test images have several."""
    zero_gradient: int
    """Images whose gradient is exactly zero at nine tenths of the pixels or more."""
    not_finite: int
    """Images whose gradient is not finite."""
    by_chance: int = 0
    """Images whose logits change by more than rounding in another batch."""
    one_step: list[Against]
    """A single step of the whole radius, at the quartiles of p*."""
    towards: list[Against] = []
    """The image of the ball nearest to one of another class, at the same radii."""
    scanned: int
    """Images attacked at several radii of the grid."""
    probes: int
    """Attacks of all of them together."""
    not_monotone: int
    """Scanned images that the attack fooled at some radius, and not at some larger one."""
    below: int
    """Scanned images that it fooled at a radius below their p*."""
    apgd_images: int = 0
    """Images that APGD-T attacked one grid step below their p*."""
    apgd_fooled: int = 0
    """Those of them that it fooled: a smaller p* was to be found."""
    square: Against | None = None
    """Square, without gradients, at the median p*."""
    square_queries: int = 0
    forward: int
    """Images passed forward and backward, Square not counted."""
    backward: int
    warnings: list[str] = []
    """One sentence for each reason not to trust p*."""


class OfClass(Struct, frozen=True, kw_only=True):
    """The images of one class."""

    name: str
    clean: Counts
    """Images right unperturbed, of all test images of the class."""
    median_pstar: float | None
    """Of the correct ones; None without any, or where it is censored."""
    censored: bool = False
    """Whether the median is larger than the grid."""


class Example(Struct, frozen=True, kw_only=True):
    """A test image beside what fooled the network at its p*."""

    kind: Literal["worst", "typical"]
    """Of the smallest p*, or nearest to the median."""
    image: Number
    """Index into the test set."""
    label: str
    """Its class, which the network says of it unperturbed."""
    says: str
    """What the network says of the adversarial image."""
    pstar: Radius
    png: bytes
    """Original, perturbation (grey is none, black or white its largest change) and adversarial image, side by side."""


class Robustness(Struct, frozen=True, kw_only=True):
    """The robustness distribution of a model on test images."""

    grid: list[float]
    attack: dict[str, Any]
    search: str
    images: list[int]
    """Indices into the test set, ascending."""
    pstar: list[int]
    """Per image the grid index of p*; ``len(grid)`` if never fooled (censored), ``MISCLASSIFIED`` if wrong anyway."""
    forward: Number
    backward: Number
    """Images passed forward and backward by search and confirmation."""
    attacks: list[AttackAccuracy] = []
    """Of the final test."""
    norm: Literal["linf", "l2"] = "linf"
    """Of all radii."""
    found_by: dict[str, int] = {}
    """Of an ensemble: how many p* are those of each search, by its name; of equal ones the first search's."""
    audit: Audit | None = None
    """None: not audited."""
    classes: list[OfClass] = []
    """In the order of the labels."""
    imbalanced: bool = True
    """Whether the dataset's classes differ in size: only then does ``report.md`` tell them apart."""
    examples: list[Example] = []

    def __post_init__(self) -> None:
        if len(self.images) != len(self.pstar) or not self.grid:
            raise ValueError(f"expected one p* per image, got {len(self.pstar)} for {len(self.images)} images")
        if any(not MISCLASSIFIED <= index <= len(self.grid) for index in self.pstar):
            raise ValueError(f"expected grid indices from {MISCLASSIFIED} to {len(self.grid)} in pstar")

    @property
    def clean(self) -> Counts:
        """Images right unperturbed, of all test images."""
        return Counts(correct=sum(index != MISCLASSIFIED for index in self.pstar), total=len(self.pstar))

    @property
    def censored(self) -> int:
        """Correct images that the attack never fooled."""
        return sum(index == len(self.grid) for index in self.pstar)

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the classes' clean accuracies; None where classes are not told apart, or none was tested."""
        shares = [each.clean.share for each in self.classes if each.clean.total]
        return statistics.fmean(shares) if shares else None

    def robust(self, epsilon: float) -> Counts:
        """Images right unperturbed and not fooled at the first grid radius from ``epsilon`` on, of all test images.

        Raises:
            RobbenchError: the grid ends below ``epsilon``.
        """
        at = grid_index(self.grid, epsilon)
        return Counts(correct=sum(index > at for index in self.pstar), total=len(self.pstar))

    @property
    def median(self) -> float | None:
        """Median p* of the correct images: infinite if censored, None without a correct image."""
        return median_pstar([index for index in self.pstar if index != MISCLASSIFIED], self.grid)

    def figures(self) -> Figures:
        """The figures that pytest-benchmark's JSON and JUnit XML get; a censored median is None."""
        median = self.median
        censored = median is not None and math.isinf(median)
        figures: Figures = {
            "accuracy": self.clean.share,
            "median_pstar": None if censored else median,
            "median_pstar_censored": censored,
            "forward_passes": self.forward,
            "backward_passes": self.backward,
        }
        if self.balanced_accuracy is not None:
            figures["balanced_accuracy"] = self.balanced_accuracy
        for tested in self.attacks:
            name = f"pgd{tested.steps}" if tested.attack == "pgd" else tested.attack
            figures[f"robust_accuracy_{name}_{tested.epsilon:.4g}"] = tested.robust.share
        return figures

    def distribution(self) -> NDArray[np.int64]:
        """(len(grid) + 1,) counts of correct images per grid value, the censored last."""
        return np.bincount(np.asarray(self.pstar) + 1, minlength=len(self.grid) + 2)[1:].astype(np.int64)


class LowerBounds(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What can be proved of a model on some of the images that its p* is known on."""

    grid: list[float]
    method: str
    """The tightest bound that was used: ``ibp``, ``crown-ibp`` or ``crown``."""
    images: list[int]
    """Indices into the test set, ascending."""
    lower: list[int]
    """Per image the grid index of the largest certified radius, or ``MISCLASSIFIED``."""
    upper: list[int]
    """Per image the grid index of p*, as of :attr:`Robustness.pstar`; smaller where the verifier found a counterexample."""
    certified_by: dict[str, int] = {}
    """How many lower bounds are of each method, and of the verifier; those of radius 0 are of none."""
    one_class: str | None = None
    """The class that the model gives every image, where it is but one: its certified radii say nothing."""
    rows: Number = 0
    """Linear functions that went backwards through the network."""
    verifier: str | None = None
    verified: list[int] = []
    """Indices of the images that the verifier was asked about."""
    verdicts: dict[str, int] = {}
    """How many queries ended ``unsat``, ``sat`` or ``undecided``."""
    verifying_seconds: Duration = 0.0

    def __post_init__(self) -> None:
        if not len(self.images) == len(self.lower) == len(self.upper) or not self.grid:
            raise ValueError(f"expected two bounds per image, got {len(self.lower)} and {len(self.upper)}")
        crossed = [
            image for image, low, high in zip(self.images, self.lower, self.upper, strict=True) if 0 <= high <= low
        ]
        if crossed:
            raise ValueError(f"expected lower bounds below p*, got others for images {crossed[:5]}")

    @property
    def right(self) -> list[tuple[int, int]]:
        """Lower and upper index of the images classified correctly."""
        return [pair for pair in zip(self.lower, self.upper, strict=True) if pair[0] != MISCLASSIFIED]

    @property
    def median(self) -> float | None:
        """Median certified radius of the correct images; None without one."""
        return median_pstar([low for low, _ in self.right], self.grid)

    @property
    def median_pstar(self) -> float | None:
        """Median p* of the same images: infinite if censored."""
        return median_pstar([high for _, high in self.right], self.grid)

    @property
    def exact(self) -> Counts:
        """Correct images whose p* is the smallest radius with a counterexample: the radius one step below is certified."""
        return Counts(correct=sum(low + 1 == high for low, high in self.right), total=len(self.right))

    @property
    def accuracy(self) -> Counts:
        """Images right unperturbed, of all."""
        return Counts(correct=len(self.right), total=len(self.lower))

    @property
    def verified_exact(self) -> int:
        """Of the images that the verifier was asked about, those whose p* is exact."""
        exact = {
            image for image, *pair in zip(self.images, self.lower, self.upper, strict=True) if pair[0] + 1 == pair[1]
        }
        return len(exact & {*self.verified})

    def robust(self, epsilon: float) -> Counts:
        """Images right and without a known counterexample at the first grid radius from ``epsilon`` on, of all images."""
        at = grid_index(self.grid, epsilon)
        return Counts(correct=sum(high > at for high in self.upper), total=len(self.upper))

    def certified(self, epsilon: float) -> Counts:
        """Images right and certified at the first grid radius from ``epsilon`` on, of all images."""
        at = grid_index(self.grid, epsilon)
        return Counts(correct=sum(low >= at for low in self.lower), total=len(self.lower))

    def figures(self) -> Figures:
        """The figures that pytest-benchmark's JSON and JUnit XML get."""
        exact = self.exact
        return {"median_certified": self.median, "exact": exact.share if exact.total else None}


class FeatureDrift(Struct, frozen=True, kw_only=True):
    """How far the features that the last k blocks get move under attack, before these are retrained."""

    epsilon: Radius
    images: Number
    """Validation images of the target."""
    drift: float
    """Mean L2 distance of attacked from clean features ÷ mean L2 distance of clean features from their mean."""

    def figures(self) -> Figures:
        """The figures that pytest-benchmark's JSON and JUnit XML get."""
        return {"drift": self.drift}


RESULTS: dict[str, type[Struct]] = {
    "training": Training,
    "robustness": Robustness,
    "bounds": LowerBounds,
    "drift": FeatureDrift,
}
"""The type of a stage's result, by the name of its kind; a new kind of stage adds its own."""


class Record(Struct, frozen=True, kw_only=True):
    """One stage of one case."""

    schema: str = SCHEMA
    key: str = ""
    """Content key of the stage in the store."""
    suite: str
    case: str
    stage: str
    digest: str
    spec: dict[str, Any]
    model: ModelFacts
    data: DataUsed
    seconds: Seconds
    environment: Environment
    created: str
    """UTC, ISO 8601."""
    result: Any
    """Of the type that ``RESULTS`` has for the stage's kind; plain values where it has none."""
    notes: list[str] = []
    """Warnings a reader must know."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        kind = RESULTS.get(self.kind)
        if kind is not None and not isinstance(self.result, kind):
            msgspec.structs.force_setattr(self, "result", msgspec.convert(self.result, kind))

    @property
    def kind(self) -> str:
        """Kind of the stage: ``robustness`` of ``robustness-reference``, a model's second stage of that kind."""
        return self.stage if self.stage in RESULTS else self.stage.partition("-")[0]

    @property
    def training(self) -> Training | None:
        """The result of a training stage; None of any other."""
        return self.result if isinstance(self.result, Training) else None

    @property
    def robustness(self) -> Robustness | None:
        """The result of a stage that estimates p*; None of any other."""
        return self.result if isinstance(self.result, Robustness) else None

    @property
    def bounds(self) -> LowerBounds | None:
        """The result of a stage that certifies; None of any other."""
        return self.result if isinstance(self.result, LowerBounds) else None

    @property
    def drift(self) -> FeatureDrift | None:
        """The result of a stage that measures feature drift; None of any other."""
        return self.result if isinstance(self.result, FeatureDrift) else None

    @property
    def figures(self) -> Figures:
        """What the stage came to; of a kind that this process does not know, the plain values of its result."""
        if isinstance(self.result, dict):
            return {name: value for name, value in self.result.items() if isinstance(value, float | int | None)}
        found: Figures = self.result.figures()
        return found

    @property
    def name(self) -> str:
        """``case.stage``: unique within a suite."""
        return f"{self.case}.{self.stage}"

    @property
    def waiting_for_core(self) -> float:
        """Share of the measured seconds that a thread waited for a core, in [0, 1]."""
        return min(1.0, self.seconds.waiting_for_core / self.seconds.measured) if self.seconds.measured else 0.0

    @property
    def measured_busy(self) -> bool:
        """Whether other work had the cores so long that the seconds (one at least) do not measure the stage."""
        return self.waiting_for_core > BUSY and self.seconds.measured >= 1


def grid_index(grid: Sequence[float], epsilon: float) -> int:
    """The place of the first grid radius from ``epsilon`` on; a RobbenchError where the grid ends below it."""
    at = int(np.searchsorted(grid, epsilon - 1e-9))
    require(at < len(grid), "radius", f"at most {grid[-1]}, where the grid ends", epsilon)
    return at


def median_pstar(indices: Iterable[int], grid: list[float]) -> float | None:
    """Median of p* given as grid indices (``len(grid)`` = censored = inf); None of no images."""
    radii = [*grid, math.inf]
    values = [radii[index] for index in indices]
    return float(statistics.median(values)) if values else None
