"""What to run: frozen values that a suite file declares, checked when built.

A :class:`Study` lists its :class:`Model` cases in dependency order. Every spec has a canonical form
(:func:`describe`), from which a stage's digest is taken. Nothing here needs torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

from robbench.catalogue import DATASETS, block_names
from robbench.errors import RobbenchError, require, unknown

TRAINING_VERSION = 1
"""Raised when the training code changes what a spec means: old weights then no longer answer to it."""

ESTIMATION_VERSION = 1
"""Raised when the estimation code changes what a spec means."""

Head = Literal["linear", "mlp1", "mlp2", "mlp3"]
Kept = Literal["frozen", "finetuned"]
Protocol = Literal["sound", "thesis"]

_PARAMETERLESS = frozenset({"avg_pool"})


def _choice(field: str, value: object, options: Any) -> None:
    known = get_args(options)
    if value not in known:
        raise unknown(field, value, known)


def _positive_int(field: str, value: object) -> None:
    require(isinstance(value, int) and not isinstance(value, bool) and value >= 1, field, "an integer ≥ 1", value)


def _number(field: str, value: object, expectation: str, *, low: float, high: float = math.inf) -> None:
    """Check a finite number in (low, high]; ``low`` itself only where the expectation says ≥."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    inside = good and (low <= value if "≥" in expectation else low < value) and value <= high  # type: ignore[operator]
    require(bool(inside), field, expectation, value)


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A labelled image set: one that robbench knows, or a prepared array file by its name."""

    name: str
    train: int | None = None
    """At most this many images of the training set (a seeded choice), for training and validation; None: all."""
    test: int | None = None
    """At most this many images of the test set; None: all."""
    validation: float = 0.2
    """Share of the training images held out for validation."""
    augmentation: Literal["none", "crop-flip"] | None = None
    """None: what the literature trains the dataset with."""
    mean: tuple[float, ...] | None = None
    """Per-channel mean and standard deviation of the normalisation inside the model; None: the literature's, if any."""
    std: tuple[float, ...] | None = None
    orientation: Literal["upright", "stored"] = "upright"
    """EMNIST only: upright, or transposed as torchvision stores it (thesis)."""
    split: Literal["disjoint", "overlapping"] = "disjoint"
    """Train and validation images disjoint, or drawn with two permutations (thesis)."""
    seed: int = 0

    def __post_init__(self) -> None:
        require(
            isinstance(self.name, str) and self.name != "" and not set(self.name) & set("/\\ :"),
            "dataset name",
            "a plain name such as 'mnist'",
            self.name,
        )
        for field in ("train", "test"):
            if getattr(self, field) is not None:
                _positive_int(f"dataset {field}", getattr(self, field))
        _number("dataset validation", self.validation, "a share in (0, 1)", low=0.0, high=0.99)
        facts = DATASETS.get(self.name)
        if self.augmentation is None:
            object.__setattr__(self, "augmentation", facts.augmentation if facts else "none")
        require((self.mean is None) == (self.std is None), "dataset mean and std", "both or none", self.mean)
        if self.mean is None and facts is not None:
            object.__setattr__(self, "mean", facts.mean)
            object.__setattr__(self, "std", facts.std)
        for value in self.std or ():
            _number("dataset std", value, "a number > 0", low=0.0)
        _choice("augmentation", self.augmentation, Literal["none", "crop-flip"])
        _choice("orientation", self.orientation, Literal["upright", "stored"])
        _choice("split", self.split, Literal["disjoint", "overlapping"])


@dataclass(frozen=True, kw_only=True)
class PGD:
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
        _positive_int("PGD steps", self.steps)
        if self.epsilon is not None:
            _number("PGD epsilon", self.epsilon, "a radius > 0 in pixel units", low=0.0)
        if self.step_size is not None:
            _number("PGD step_size", self.step_size, "a step > 0 in pixel units", low=0.0)
        require(len(self.box) == 2 and self.box[0] < self.box[1], "PGD box", "(low, high) with low < high", self.box)
        if self.epsilon and self.step_size and self.steps * self.step_size < self.epsilon * (1 - 1e-9):
            warnings.warn(
                f"PGD: {self.steps} steps of {self.step_size:g} cannot reach the radius {self.epsilon:g}", stacklevel=3
            )


@dataclass(frozen=True, kw_only=True)
class StepLR:
    """Multiply the learning rate by gamma every ``step`` epochs."""

    step: int
    gamma: float

    def __post_init__(self) -> None:
        _positive_int("StepLR step", self.step)
        _number("StepLR gamma", self.gamma, "a factor in (0, 1]", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class MultiStepLR:
    """Multiply the learning rate by gamma at each of the milestones (epochs)."""

    milestones: tuple[int, ...]
    gamma: float

    def __post_init__(self) -> None:
        for milestone in self.milestones:
            _positive_int("MultiStepLR milestones", milestone)
        require(
            list(self.milestones) == sorted(set(self.milestones)),
            "MultiStepLR milestones",
            "increasing epochs",
            self.milestones,
        )
        _number("MultiStepLR gamma", self.gamma, "a factor in (0, 1]", low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class OneCycle:
    """Linear warm-up to the learning rate, then linear decay to zero, per update (Smith and Topin 2018)."""

    warm_up: float = 0.3
    """Share of all updates."""

    def __post_init__(self) -> None:
        _number("OneCycle warm_up", self.warm_up, "a share in (0, 1)", low=0.0, high=0.99)


Schedule = StepLR | MultiStepLR | OneCycle


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop when the watched figure has not improved for ``patience`` epochs.

    Conventional training watches validation accuracy, adversarial training the moving average over ``window`` epochs
    of validation robust accuracy; counting starts once the window is full.
    """

    patience: int = 6
    window: int = 1

    def __post_init__(self) -> None:
        _positive_int("EarlyStopping patience", self.patience)
        _positive_int("EarlyStopping window", self.window)


@dataclass(frozen=True, kw_only=True)
class Recipe:
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
    checkpoint: Literal["robust", "clean", "last"] = "robust"
    """Which epoch is kept: best validation robust accuracy (clean where there is no attack), best clean, or last."""
    precision: Literal["float32", "bf16"] = "float32"
    """bf16: forward and backward under autocast; p* is always estimated in float32."""

    def __post_init__(self) -> None:
        _choice("optimiser", self.optimiser, Literal["adam", "sgd"])
        _number("learning_rate", self.learning_rate, "a number > 0", low=0.0)
        _number("weight_decay", self.weight_decay, "a number ≥ 0", low=0.0)
        _number("momentum", self.momentum, "a number ≥ 0 and below 1", low=0.0, high=0.9999)
        _number("ramp_epochs", self.ramp_epochs, "a number ≥ 0", low=0.0)
        _positive_int("batch_size", self.batch_size)
        _positive_int("epochs", self.epochs)
        if self.clip_norm is not None:
            _number("clip_norm", self.clip_norm, "a norm > 0", low=0.0)
        for field in ("attack", "validation_attack"):
            attack = getattr(self, field)
            require(attack is None or attack.epsilon is not None, f"{field} epsilon", "a radius for training", None)
        require(
            self.attack is not None or self.validation_attack is None,
            "validation_attack",
            "none without an attack",
            self.validation_attack,
        )
        _choice("statistics", self.statistics, Literal["batch", "running"])
        _choice("checkpoint", self.checkpoint, Literal["robust", "clean", "last"])
        _choice("precision", self.precision, Literal["float32", "bf16"])

    @property
    def adversarial(self) -> bool:
        """Whether the recipe trains on adversarial images."""
        return self.attack is not None


@dataclass(frozen=True, kw_only=True)
class Transfer:
    """TL#k: the last k blocks re-initialised and retrained on the target, the others kept."""

    k: int
    head: Head = "linear"
    kept: Kept = "frozen"
    kept_scale: float = 0.01
    """Learning-rate factor of fine-tuned kept blocks (0.01 in the study's text, 0.001 in its code)."""
    kept_statistics: Literal["eval", "train"] = "eval"
    """Mode of the frozen blocks while retraining; 'train' lets their batch-norm statistics drift (thesis)."""

    def __post_init__(self) -> None:
        _positive_int("k", self.k)
        _choice("head", self.head, Head)
        _choice("kept", self.kept, Kept)
        _number("kept_scale", self.kept_scale, "a factor in (0, 1]", low=0.0, high=1.0)
        _choice("kept_statistics", self.kept_statistics, Literal["eval", "train"])


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A user's own trained weights as a safetensors file, in place of a trained source model."""

    path: str

    def __post_init__(self) -> None:
        require(
            str(self.path).endswith(".safetensors"),
            "checkpoint path",
            "a .safetensors file (safetensors.torch.save_file(model.state_dict(), path) writes one)",
            self.path,
        )
        object.__setattr__(self, "path", str(self.path))

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file's bytes: the checkpoint's identity, wherever it lies.

        Raises:
            RobbenchError: the file cannot be read.
        """
        try:
            return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()
        except OSError as error:
            raise RobbenchError(f"checkpoint {self.path!r} cannot be read: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class EpsilonGrid:
    """Radii 0, step, 2·step, … up to ``stop`` in pixel units."""

    stop: float
    step: float

    def __post_init__(self) -> None:
        _number("grid step", self.step, "a step > 0 in pixel units", low=0.0)
        _number("grid stop", self.stop, "a radius ≥ one step in pixel units", low=self.step)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The grid's radii, ascending, beginning with 0."""
        count = math.floor(self.stop / self.step + 1e-9) + 1
        return tuple(round(i * self.step, 10) for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """How p* is estimated: which radii, with which attack, by which search, on how many test images."""

    grid: EpsilonGrid
    attack: PGD
    images: int = 10_000
    """At most this many test images (a seeded choice)."""
    search: Literal["reference"] = "reference"
    seed: int = 0

    def __post_init__(self) -> None:
        _positive_int("estimate images", self.images)
        _choice("search", self.search, Literal["reference"])
        require(self.attack.epsilon is None, "estimate attack epsilon", "none (the grid gives it)", self.attack.epsilon)
        require(self.attack.step_size is None, "estimate attack step_size", "none (ε ÷ steps)", self.attack.step_size)
        require(
            not self.attack.random_start,
            "estimate attack random_start",
            "False (p* must depend on the image alone, not on its batch)",
            True,
        )


@dataclass(frozen=True, kw_only=True)
class Quick:
    """The size a study shrinks to under ``--robbench-quick``: every stage runs, no figure means anything."""

    train: int = 256
    test: int = 64
    epochs: int = 1
    attack_steps: int = 2
    images: int = 16

    def __post_init__(self) -> None:
        for field in fields(self):
            _positive_int(f"quick {field.name}", getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class Model:
    """One case: a network trained from scratch, transferred from a source model, or read from a checkpoint."""

    architecture: str
    dataset: Dataset
    recipe: Recipe | None = None
    transfer: Transfer | None = None
    source: Model | None = None
    checkpoint: Checkpoint | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        names = block_names(self.architecture)
        if self.checkpoint is not None:
            require(
                self.recipe is None and self.transfer is None and self.source is None,
                "checkpoint model",
                "no recipe, transfer or source beside a checkpoint",
                str(self.architecture),
            )
            return
        require(self.recipe is not None, "model recipe", "a Recipe (or a Checkpoint)", self.recipe)
        require(
            (self.transfer is None) == (self.source is None), "transfer", "transfer and source together", self.transfer
        )
        if self.transfer is not None and self.source is not None:
            require(
                self.source.architecture == self.architecture,
                "source architecture",
                f"{self.architecture!r} as the target's",
                self.source.architecture,
            )
            if names is not None:
                require(self.transfer.k <= len(names), "k", f"1…{len(names)} for {self.architecture}", self.transfer.k)

    @property
    def method(self) -> str:
        """``standard``, ``pgd``, ``transfer``, ``transfer-adversarial`` or ``checkpoint``."""
        if self.recipe is None:
            return "checkpoint"
        if self.transfer is None:
            return "pgd" if self.recipe.adversarial else "standard"
        return "transfer-adversarial" if self.recipe.adversarial else "transfer"

    @property
    def id(self) -> str:
        """Readable name, unique within a study: ``cnn7-emnist-TL3-adversarial``."""
        parts = [self.architecture.replace("timm:", "").replace(":", ".").replace("/", "_"), self.dataset.name]
        if self.transfer is None or self.source is None:
            parts.append(self.method)
        else:
            parts.append(f"TL{self.transfer.k}")
            if self.method == "transfer-adversarial":
                parts.append("adversarial")
            if self.transfer.head != "linear":
                parts.append(self.transfer.head)
            if self.transfer.kept == "finetuned":
                parts.append("finetuned")
            if self.source.method == "standard":
                parts.append("from-standard")
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def __str__(self) -> str:
        return self.id

    @cached_property
    def digest(self) -> str:
        """SHA-256 over exactly the fields that the trained weights depend on."""
        return digest_of({"version": TRAINING_VERSION, "model": describe(self)})

    def estimate_digest(self, estimate: Estimate) -> str:
        """SHA-256 over the fields that this model's robustness under ``estimate`` depends on."""
        return digest_of(
            {
                "version": ESTIMATION_VERSION,
                "model": self.digest,
                "test": self.dataset.test,
                "estimate": describe(estimate),
            }
        )


@dataclass(frozen=True, kw_only=True)
class Transfers:
    """A row of transfers in a study: these architectures, each k, one head, one recipe."""

    recipe: Recipe | Mapping[str, Recipe]
    architectures: tuple[str, ...] | None = None
    """None: all of the study's."""
    k: tuple[int, ...] | None = None
    """None: every k from 1 to K."""
    head: Head = "linear"
    kept: Kept = "frozen"
    kept_scale: float = 0.01
    kept_statistics: Literal["eval", "train"] = "eval"
    source: Literal["adversarial", "standard"] = "adversarial"
    """Which source model the blocks come from."""

    def __post_init__(self) -> None:
        _choice("transfers source", self.source, Literal["adversarial", "standard"])
        for k in self.k or ():
            self._transfer(k)

    def _transfer(self, k: int) -> Transfer:
        return Transfer(
            k=k,
            head=self.head,
            kept=self.kept,
            kept_scale=self.kept_scale,
            kept_statistics=self.kept_statistics,
        )


@dataclass(frozen=True, kw_only=True)
class Study:
    """One robustness-transfer study: a source and a target dataset, architectures, recipes, transfers, an estimate."""

    name: str
    source: Dataset | str
    target: Dataset | str
    architectures: tuple[str, ...]
    standard: Recipe | Mapping[str, Recipe]
    adversarial: Recipe | Mapping[str, Recipe]
    transfers: tuple[Transfers, ...]
    estimate: Estimate
    source_checkpoint: Checkpoint | None = None
    """Weights to use as the adversarially trained source model, instead of training one."""
    seeds: tuple[int, ...] = (0,)
    needs_cuda: bool = False
    """Skipped without a CUDA device, unless quick or forced with ``--robbench-device cpu``."""
    quick: Quick = Quick()
    protocol: Protocol = "sound"

    def __post_init__(self) -> None:
        require(
            self.name.replace("-", "").replace("_", "").isalnum(),
            "study name",
            "letters, digits, '-' and '_' (it names folders)",
            self.name,
        )
        for field in ("source", "target"):
            if isinstance(getattr(self, field), str):
                object.__setattr__(self, field, Dataset(name=getattr(self, field)))
        require(len(self.architectures) > 0, "architectures", "at least one", self.architectures)
        for architecture in self.architectures:
            block_names(architecture)
        require(len(self.seeds) > 0 and len(set(self.seeds)) == len(self.seeds), "seeds", "distinct seeds", self.seeds)
        _choice("protocol", self.protocol, Protocol)
        assert isinstance(self.source, Dataset)
        assert isinstance(self.target, Dataset)
        require(
            self.source.name != self.target.name or self.source == self.target,
            "source and target",
            "two names, or one Dataset for both",
            self.source.name,
        )
        for row in self.transfers:
            for architecture in row.architectures or ():
                if architecture not in self.architectures:
                    raise unknown("architecture of a transfer", architecture, self.architectures)
        require(
            self.source_checkpoint is None or len(self.architectures) == 1,
            "source_checkpoint",
            "one architecture beside a source checkpoint",
            self.architectures,
        )
        names = [model.id for model in self.models()]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"study {self.name!r}", "every model declared once", ", ".join(twice))

    def models(self) -> tuple[Model, ...]:
        """The study's models, each after the source it is transferred from."""
        return tuple(
            model for seed in self.seeds for name in self.architectures for model in self._of_architecture(name, seed)
        )

    def _of_architecture(self, architecture: str, seed: int) -> Iterable[Model]:
        assert isinstance(self.source, Dataset)
        assert isinstance(self.target, Dataset)
        scratch = {
            (dataset.name, method): Model(
                architecture=architecture, dataset=dataset, recipe=_of(recipe, architecture), seed=seed
            )
            for method, recipe in (("standard", self.standard), ("adversarial", self.adversarial))
            for dataset in (self.source, self.target)
        }
        if self.source_checkpoint is not None:
            scratch[self.source.name, "adversarial"] = Model(
                architecture=architecture, dataset=self.source, checkpoint=self.source_checkpoint, seed=seed
            )
        yield from scratch.values()
        for row in self.transfers:
            if row.architectures is not None and architecture not in row.architectures:
                continue
            for k in self._every_k(row, architecture):
                yield Model(
                    architecture=architecture,
                    dataset=self.target,
                    recipe=_of(row.recipe, architecture),
                    transfer=row._transfer(k),
                    source=scratch[self.source.name, row.source],
                    seed=seed,
                )

    def _every_k(self, row: Transfers, architecture: str) -> tuple[int, ...]:
        if row.k is not None:
            return row.k
        names = block_names(architecture)
        if names is None:
            raise RobbenchError(
                f"transfers of {architecture!r}: expected k=(1, 2, …), since only the built network knows its blocks; "
                f"`robbench list {architecture}` prints them"
            )
        return tuple(
            k
            for k in range(1, len(names) + 1)
            if self.protocol == "thesis" or names[len(names) - k] not in _PARAMETERLESS
        )

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about what was left out, and why."""
        notes = []
        for architecture in self.architectures:
            names = block_names(architecture) or ()
            for k, block in enumerate(reversed(names), 1):
                if block in _PARAMETERLESS and self.protocol == "sound":
                    notes.append(
                        f"{architecture}: block {block!r} has no parameters, so TL#{k} is TL#{k - 1} over again "
                        "and is not trained twice"
                    )
        return tuple(notes)

    def shrunk(self) -> Study:
        """The study at its quick scale, under the name ``<name>-quick``."""
        quick = self.quick

        def attack(spec: PGD | None) -> PGD | None:
            if spec is None or spec.steps <= quick.attack_steps:
                return spec
            return replace(spec, steps=quick.attack_steps, step_size=None)

        def recipe(spec: Recipe) -> Recipe:
            return replace(
                spec,
                epochs=min(spec.epochs, quick.epochs),
                batch_size=min(spec.batch_size, max(2, quick.train // 4)),
                ramp_epochs=min(spec.ramp_epochs, quick.epochs / 2),
                attack=attack(spec.attack),
                validation_attack=attack(spec.validation_attack),
            )

        def dataset(spec: Dataset | str) -> Dataset:
            assert isinstance(spec, Dataset)
            return replace(
                spec, train=min(spec.train or quick.train, quick.train), test=min(spec.test or quick.test, quick.test)
            )

        oracle = attack(self.estimate.attack)
        assert oracle is not None
        small = self.with_recipes(recipe).with_datasets(dataset)
        return replace(
            small,
            name=f"{self.name}-quick",
            estimate=replace(self.estimate, attack=oracle, images=min(self.estimate.images, quick.images)),
        )

    def with_recipes(self, change: Any) -> Study:
        """The study with ``change(recipe)`` in place of every recipe."""

        def each(recipe: Recipe | Mapping[str, Recipe]) -> Recipe | Mapping[str, Recipe]:
            if isinstance(recipe, Recipe):
                return change(recipe)  # type: ignore[no-any-return]
            return {name: change(value) for name, value in recipe.items()}

        return replace(
            self,
            standard=each(self.standard),
            adversarial=each(self.adversarial),
            transfers=tuple(replace(row, recipe=each(row.recipe)) for row in self.transfers),
        )

    def with_datasets(self, change: Any) -> Study:
        """The study with ``change(dataset)`` in place of source and target."""
        return replace(self, source=change(self.source), target=change(self.target))


def _of(recipe: Recipe | Mapping[str, Recipe], architecture: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if architecture not in recipe:
        raise unknown("recipe for architecture", architecture, recipe)
    return recipe[architecture]


def describe(spec: Any) -> Any:
    """A spec as plain JSON values; what names no property of the result (a test-set size, a path) is left out."""
    if isinstance(spec, Checkpoint):
        return {"kind": "Checkpoint", "sha256": spec.sha256}
    if is_dataclass(spec):
        values = {field.name: describe(getattr(spec, field.name)) for field in fields(spec)}
        if isinstance(spec, Dataset):
            del values["test"]
        return {"kind": type(spec).__name__, **values}
    if isinstance(spec, Mapping):
        return {str(key): describe(value) for key, value in spec.items()}
    if isinstance(spec, tuple | list):
        return [describe(value) for value in spec]
    return spec


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON of plain values: sorted keys, no spaces, integral floats as integers."""
    text = json.dumps(_canonical(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def _canonical(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, Mapping):
        return {key: _canonical(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(entry) for entry in value]
    return value


def differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Where two described specs differ, as ``recipe.attack.epsilon: 0.2 → 0.02``."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*old, *(key for key in new if key not in old)]
        return [
            line
            for key in keys
            for line in differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
        ]
    return [] if _canonical(old) == _canonical(new) else [f"{path}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}…"
