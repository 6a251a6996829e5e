"""What came out of a stage: records, their JSON, and the figures that follow from a robustness distribution. No torch."""

from __future__ import annotations

import math
import os
import tempfile
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from robbench.errors import RobbenchError
from robbench.interruption import postponed

SCHEMA = "robbench.record/1"

WRONG = -1
"""Place of an image in ``Robustness.pstar`` that the network misclassifies without any perturbation."""

Stage = Literal["training", "robustness"]


class _Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Immutable; equality by value; strict JSON."""


class Counts(_Struct, frozen=True, kw_only=True):
    """So many of so many images."""

    correct: int
    total: int

    @property
    def share(self) -> float:
        """Correct ÷ total; NaN of no images."""
        return self.correct / self.total if self.total else math.nan


class Seconds(_Struct, frozen=True, kw_only=True):
    """Durations of a stage by purpose, in seconds. The regression gate and pytest-benchmark see ``measured``."""

    training: float = 0.0
    """Updates of the weights, adversarial images included."""
    validation: float = 0.0
    estimation: float = 0.0
    """The p* search and its confirmation."""
    warm_up: float = 0.0
    """Discarded runs before the clock starts."""
    io: float = 0.0
    """Reading data and writing checkpoints."""

    @property
    def measured(self) -> float:
        """What the stage is judged by: training or estimation alone."""
        return self.training + self.estimation

    @property
    def total(self) -> float:
        """Everything; for a training stage, what the published seconds span."""
        return self.training + self.validation + self.estimation + self.warm_up + self.io


class Environment(_Struct, frozen=True, kw_only=True):
    """Where a stage ran. ``slug`` names the machine class: seconds compare within one slug only."""

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
    commit: str | None = None
    dirty: bool | None = None


class DataUsed(_Struct, frozen=True, kw_only=True):
    """The images a stage really used."""

    name: str
    train: int
    validation: int
    test: int
    sha256: str
    """Over images, labels and class names of the whole set."""


class ModelFacts(_Struct, frozen=True, kw_only=True):
    """What tables and figures need to know of a model."""

    architecture: str
    dataset: str
    method: str
    """standard, pgd, transfer, transfer-adversarial or checkpoint."""
    source: str | None = None
    """Dataset that the source model was trained on."""
    source_case: str | None = None
    source_method: str | None = None
    """Method of the source model: pgd, standard or checkpoint."""
    k: int | None = None
    blocks: int
    head: str = "linear"
    kept: str | None = None
    seed: int = 0
    variant: str | None = None
    """The one field of the thesis protocol that an ablation's model follows; None: as its study declares."""
    parameters: int
    trainable: int


class Epoch(_Struct, frozen=True, kw_only=True):
    """One epoch of a training history."""

    epoch: int
    loss: float
    learning_rate: float
    train: Counts
    """Of the images trained on, as the update step saw them."""
    validation: Counts
    robust: Counts | None = None
    """Validation images still right under the validation attack."""
    seconds: float
    validation_seconds: float


class Training(_Struct, frozen=True, kw_only=True):
    """How a training stage went. Empty history: the weights came from a user's checkpoint."""

    epochs: list[Epoch]
    best: int
    """Epoch whose weights were kept; 0 for a checkpoint."""
    stopped_early: bool
    validation: Counts
    """Of the kept epoch."""
    robust: Counts | None = None
    forward: int
    """Images passed forward, all purposes."""
    backward: int


class AttackAccuracy(_Struct, frozen=True, kw_only=True):
    """Robust accuracy under one attack at one radius: images right unperturbed and attacked, of all test images."""

    attack: Literal["fgsm", "pgd"]
    epsilon: float
    steps: int
    step_size: float
    """Pixel units, as ``epsilon``."""
    robust: Counts


class Robustness(_Struct, frozen=True, kw_only=True):
    """The robustness distribution of a model on test images.

    ``pstar`` has one place per test image, in order of ``images``: the index into ``grid`` of p*, ``len(grid)`` where
    the image was never fooled (censored), ``WRONG`` where it is misclassified unperturbed.
    """

    grid: list[float]
    attack: dict[str, Any]
    search: str
    images: list[int]
    """Indices into the test set, ascending."""
    pstar: list[int]
    forward: int
    backward: int
    """Images passed forward and backward by search and confirmation."""
    attacks: list[AttackAccuracy] = []
    """Robust accuracies of the final test (FGSM and PGD at fixed radii), where the study asks for them."""

    def __post_init__(self) -> None:
        if len(self.images) != len(self.pstar) or not self.grid:
            raise ValueError(f"expected one p* per image, got {len(self.pstar)} for {len(self.images)} images")
        if any(not WRONG <= place <= len(self.grid) for place in self.pstar):
            raise ValueError(f"expected places from {WRONG} to {len(self.grid)} in pstar")

    @property
    def clean(self) -> Counts:
        """Images classified correctly unperturbed, of all test images."""
        return Counts(correct=sum(place != WRONG for place in self.pstar), total=len(self.pstar))

    @property
    def censored(self) -> int:
        """Correct images that the attack never fooled inside the grid."""
        return sum(place == len(self.grid) for place in self.pstar)

    def robust(self, epsilon: float) -> Counts:
        """Images right unperturbed and not fooled at ``epsilon`` (a grid value), of all test images.

        Raises:
            RobbenchError: epsilon is not on the grid.
        """
        at = int(np.argmin(np.abs(np.asarray(self.grid) - epsilon)))
        if abs(self.grid[at] - epsilon) > 1e-9:
            raise RobbenchError(
                f"robust accuracy: expected an epsilon of the grid, got {epsilon} (nearest {self.grid[at]})"
            )
        return Counts(correct=sum(place > at for place in self.pstar), total=len(self.pstar))

    @property
    def median(self) -> float | None:
        """Median p* over the correct images: inf when censored, None without a correct image."""
        return median_pstar([place for place in self.pstar if place != WRONG], self.grid)

    def distribution(self) -> NDArray[np.int64]:
        """(len(grid) + 1,) counts of correct images per grid value, the censored last."""
        correct = [place for place in self.pstar if place != WRONG]
        return np.bincount(correct, minlength=len(self.grid) + 1).astype(np.int64)


class Record(_Struct, frozen=True, kw_only=True):
    """One stage of one case: what was asked, where it ran, what came out."""

    schema: str = SCHEMA
    suite: str
    case: str
    stage: Stage
    digest: str
    spec: dict[str, Any]
    model: ModelFacts
    data: DataUsed
    seconds: Seconds
    environment: Environment
    created: str
    """UTC, ISO 8601."""
    training: Training | None = None
    robustness: Robustness | None = None
    notes: list[str] = []
    """Warnings a reader must know."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        if (self.training is None) == (self.stage == "training") or (self.robustness is None) == (
            self.stage == "robustness"
        ):
            raise ValueError(f"expected the result of a {self.stage} stage and no other")

    @property
    def name(self) -> str:
        """``case.stage``: unique within a suite."""
        return f"{self.case}.{self.stage}"


def as_case(record: Record, *, suite: str, case: str, source_case: str | None, variant: str | None) -> Record:
    """A stage's record under the names of the study that asks for it: a stored one may come from another study."""
    facts = msgspec.structs.replace(record.model, source_case=source_case, variant=variant)
    return msgspec.structs.replace(record, suite=suite, case=case, model=facts)


def median_pstar(places: Iterable[int], grid: list[float]) -> float | None:
    """Median of p* given as grid indices (``len(grid)`` = censored = inf); None of no images."""
    values = np.asarray([*grid, math.inf])[np.fromiter(places, dtype=np.int64)]
    if not len(values):
        return None
    values.sort()
    low, high = values[(len(values) - 1) // 2], values[len(values) // 2]
    return float(low if low == high else (low + high) / 2)


def choose_images(total: int, count: int, seed: int) -> list[int]:
    """Ascending indices of at most ``count`` of ``total`` test images, a seeded choice, the same for every model."""
    if count >= total:
        return list(range(total))
    return sorted(np.random.default_rng(seed).permutation(total)[:count].tolist())


def check_writable(folder: Path) -> None:
    """Raise a RobbenchError unless a file can be written in the folder, which is made where it is missing."""
    probe = folder / f".writable-{uuid.uuid4().hex}"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name beside it, flush to disk, rename; SIGINT and SIGTERM wait.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    try:
        with postponed():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error
