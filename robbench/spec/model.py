"""Transfers, estimates and models: the cases of a study."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from functools import cached_property
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from robbench.errors import RobbenchError, require
from robbench.spec.canonical import UNDESCRIBED, WHERE_GIVEN, describe, digest_of
from robbench.spec.catalogue import block_names, own_module
from robbench.spec.checks import Checked, choice, integer, number, positive_int, radius, random_seed
from robbench.spec.training import PGD, Dataset, Recipe

TRAINING_VERSION = 1
"""Raised when the training code changes what a spec means: old weights then no longer answer to it."""

ESTIMATION_VERSION = 1
"""Raised when the estimation code changes what a spec means."""

Head = Literal["linear", "mlp1", "mlp2", "mlp3"]
Kept = Literal["frozen", "finetuned"]

FINEST_STEP = 1e-9
"""Of a grid in pixel units: its values are rounded to ten decimals."""

MOST_RADII = 100_000
"""Of a grid."""


@dataclass(frozen=True, kw_only=True)
class Transfer(Checked):
    """TL#k: the last k blocks re-initialised and retrained on the target, the others kept."""

    k: int
    head: Head = "linear"
    kept: Kept = "frozen"
    kept_scale: float = 0.01
    """Learning-rate factor of fine-tuned kept blocks (0.01 in the study's text, 0.001 in its code)."""
    kept_statistics: Literal["eval", "train"] = "eval"
    """Mode of the frozen blocks while retraining; 'train' lets their batch-norm statistics drift (thesis)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("k", self.k)
        choice("head", self.head, Head)
        choice("kept", self.kept, Kept)
        number("kept_scale", self.kept_scale, "a factor in (0, 1]", low=0.0, high=1.0)
        choice("kept_statistics", self.kept_statistics, Literal["eval", "train"])


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Checked):
    """A user's own trained weights as a safetensors file, in place of a trained source model."""

    path: str

    def __post_init__(self) -> None:
        if isinstance(self.path, Path):
            object.__setattr__(self, "path", str(self.path))
        super().__post_init__()
        require(
            self.path.endswith(".safetensors"),
            "checkpoint path",
            "a .safetensors file (safetensors.torch.save_file(model.state_dict(), path) writes one)",
            self.path,
        )

    @classmethod
    def known(cls, sha256: str) -> Checkpoint:
        """A checkpoint of which only the content's SHA-256 is known, as in records; its file cannot be read."""
        checkpoint = cls(path=f"{sha256}.safetensors")
        checkpoint.__dict__["sha256"] = sha256  # in place of the cached property's
        return checkpoint

    def canonical(self) -> dict[str, str]:
        """What identifies the checkpoint: its content, wherever it lies."""
        return {"kind": "Checkpoint", "sha256": self.sha256}

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
class EpsilonGrid(Checked):
    """Radii 0, step, 2·step, … up to ``stop`` in pixel units."""

    stop: float
    step: float

    def __post_init__(self) -> None:
        super().__post_init__()
        radius("grid step", self.step, "a step ≥ 1e-9 in pixel units", low=FINEST_STEP)
        radius("grid stop", self.stop, "a radius ≥ one step in pixel units", low=self.step)
        require(self._count <= MOST_RADII, "grid", f"at most {MOST_RADII:,} radii (a larger step)", self._count)

    @property
    def _count(self) -> int:
        return math.floor(self.stop / self.step + 1e-9) + 1

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The grid's radii, ascending, beginning with 0."""
        return tuple(round(i * self.step, 10) for i in range(self._count))


@dataclass(frozen=True, kw_only=True)
class Audit(Checked):
    """A look at whether the attack can be trusted, on a seeded sample of the correctly classified images."""

    images: int = 100
    """At most this many: is their gradient usable, and does one step, another class's image, or Square find what the
    search did not."""
    share: float = 0.1
    """Of the search's passes that it may take, Square not counted; what the gradients leave pays for the scan."""
    radii: int = 8
    """Grid values at most at which each scanned image is attacked, half of them below its p*, half above."""
    square_queries: int = 0
    """Queries of Square, an attack without gradients, for each image; needs torchattacks. 0: it is not run."""
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("audit images", self.images)
        number("audit share", self.share, "a share in (0, 1]", low=0.0, high=1.0)
        require(
            isinstance(self.radii, int) and self.radii >= 2,
            "audit radii",
            "an integer ≥ 2 (below and above p*)",
            self.radii,
        )
        integer("audit square_queries", self.square_queries, low=0)
        random_seed("audit seed", self.seed)


@dataclass(frozen=True, kw_only=True)
class Estimate(Checked):
    """How robustness is measured: p* over which radii, with which attack, by which search, on how many test images."""

    grid: EpsilonGrid
    attack: PGD
    images: int = 10_000
    """At most this many test images (a seeded choice)."""
    search: Literal["reference", "fast"] = "reference"
    """The published binary search, or a shrinking ball: fewer passes, and a p* that is as small or smaller."""
    seed: int = 0
    final_test: tuple[PGD, ...] = field(default=(), metadata=WHERE_GIVEN)
    """Attacks at fixed radii, for robust accuracy on the same images; one step of the whole radius is FGSM."""
    audit: Audit | None = field(default=Audit(), metadata=WHERE_GIVEN)
    """Whether gradients are masked, so that p* cannot be trusted; None: not looked at."""

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_int("estimate images", self.images)
        choice("search", self.search, Literal["reference", "fast"])
        random_seed("estimate seed", self.seed)
        require(self.attack.epsilon is None, "estimate attack epsilon", "none (the grid gives it)", self.attack.epsilon)
        require(self.attack.step_size is None, "estimate attack step_size", "none (ε ÷ steps)", self.attack.step_size)
        require(
            not self.attack.random_start,
            "estimate attack random_start",
            "False (p* must depend on the image alone, not on its batch)",
            True,
        )
        for attack in self.final_test:
            require(attack.epsilon is not None, "final test epsilon", "a radius > 0 in pixel units", attack.epsilon)
            require(
                not attack.random_start,
                "final test random_start",
                "False (the result must depend on the image alone, not on its batch)",
                True,
            )
        require(len(set(self.final_test)) == len(self.final_test), "final test", "each attack once", self.final_test)


@dataclass(frozen=True, kw_only=True)
class Model(Checked):
    """One case: a network trained from scratch, transferred from a source model, or read from a checkpoint."""

    architecture: str
    dataset: Dataset
    recipe: Recipe | None = None
    transfer: Transfer | None = None
    source: Model | None = None
    checkpoint: Checkpoint | None = None
    seed: int = 0
    variant: str | None = field(default=None, metadata=UNDESCRIBED)
    """A label: the one field of the thesis protocol that an ablation's model follows, beside its study's others."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = block_names(self.architecture)
        random_seed("model seed", self.seed)
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
        if self.variant is not None:
            parts.append(self.variant)
        if self.seed:
            parts.append(f"seed{self.seed}")
        return "-".join(parts)

    def __str__(self) -> str:
        return self.id

    @cached_property
    def digest(self) -> str:
        """SHA-256 over exactly the fields that the trained weights depend on."""
        code = _code(self.architecture)
        return digest_of({"version": TRAINING_VERSION, "model": describe(self), **({"code": code} if code else {})})

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


def _code(architecture: str) -> str | None:
    """What identifies the code behind a name that robbench does not define: timm's version, a module's SHA-256."""
    if architecture.startswith("timm:"):
        return f"timm {version('timm')}"
    module = own_module(architecture)
    if module is None:
        return None
    try:
        found = find_spec(module)
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else None
    except (Exception, SystemExit):  # a package that the name begins with is imported
        return None  # building the network says what is wrong with the name
