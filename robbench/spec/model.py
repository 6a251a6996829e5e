"""Transfers, checkpoints and models: the cases of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import field, fields
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from robbench.errors import RobbenchError, require
from robbench.spec.base import UNDESCRIBED, Count, PositiveInt, Share, Spec
from robbench.spec.catalogue import block_names, own_module
from robbench.spec.description import describe, digest_of
from robbench.spec.own_code import edited, remember, sha256_of
from robbench.spec.training import Dataset, Recipe

TRAINING_VERSION = 1
"""Raised when the training code changes what comes out of a spec; models trained before are then trained again."""

ESTIMATION_VERSION = 1
"""Raised when the estimation code changes what comes out of a spec; p* is then estimated again."""

Head = Literal["linear", "mlp1", "mlp2", "mlp3"]
Kept = Literal["frozen", "finetuned", "warm"]


class Transfer(Spec):
    """TL#k: the last k blocks re-initialised and retrained on the target, the others kept."""

    k: PositiveInt
    head: Head = "linear"
    kept: Kept = "frozen"
    """frozen, finetuned at a lower rate, or warm: retrained like the others, but from the source's weights."""
    kept_scale: Share = 0.01
    """Learning-rate factor of fine-tuned kept blocks; 0.001 in the study's code."""
    kept_statistics: Literal["eval", "train"] = "eval"
    """Mode of the frozen blocks; 'train' lets their batch-norm statistics drift (thesis)."""

    def __post_init__(self) -> None:
        both = self.kept_scale, self.kept_statistics
        unset = self.kept != "warm" or both == (Transfer.kept_scale, Transfer.kept_statistics)
        require(
            unset, "Transfer kept_scale and kept_statistics", "neither beside kept='warm', which keeps nothing", both
        )


class Checkpoint(Spec):
    """A user's own trained weights, as a safetensors file."""

    path: Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, Path) else path)]

    def __post_init__(self) -> None:
        how = "a .safetensors file (safetensors.torch.save_file(model.state_dict(), path) writes one)"
        require(self.path.endswith(".safetensors"), "Checkpoint path", how, self.path)

    @classmethod
    def from_description(cls, **values: Any) -> Self:
        """A checkpoint of which only the SHA-256 is known."""
        checkpoint = cls(path=f"{values['sha256']}.safetensors")
        checkpoint.__dict__["sha256"] = values["sha256"]  # in place of the cached property's
        return checkpoint

    def canonical(self) -> dict[str, str]:
        """The described form: what is in the file, wherever it lies."""
        return {"kind": "Checkpoint", "sha256": self.sha256}

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file; a RobbenchError if it cannot be read."""
        try:
            return hashlib.sha256(Path(self.path).read_bytes()).hexdigest()
        except OSError as error:
            raise RobbenchError(f"checkpoint {self.path!r} cannot be read: {error.strerror or error}") from error


class Model(Spec):
    """One case: a network trained from scratch, transferred from a source model, or read from a checkpoint."""

    architecture: str
    dataset: Dataset
    recipe: Recipe | None = None
    transfer: Transfer | None = None
    source: Model | None = None
    """Where the kept blocks come from."""
    teacher: Model | None = None
    """What an objective of one's own imitates."""
    checkpoint: Checkpoint | None = None
    seed: Count = 0
    variant: str | None = field(default=None, metadata=UNDESCRIBED)
    """The field of the thesis protocol that this model of an ablation follows."""

    def __post_init__(self) -> None:
        names = block_names(self.architecture)
        remember(own_module(self.architecture) or "")
        transfer, source = self.transfer, self.source
        if self.checkpoint is not None:
            alone = self.recipe is None and transfer is None and not self.parents()
            require(alone, "Model checkpoint", "no recipe, transfer, source or teacher beside it", self.checkpoint)
            return
        if self.recipe is None:
            raise RobbenchError("Model recipe: expected a Recipe (or a Checkpoint), got None")
        for role in self.recipe.objective.parents:
            require(role in self.parents(), f"Model {role}", "the model that the recipe's objective needs", None)
        require((transfer is None) == (source is None), "Model transfer", "transfer and source together", transfer)
        if transfer is not None and source is not None:
            same = source.architecture == self.architecture
            require(same, "Model source", f"the target's architecture {self.architecture!r}", source.architecture)
            known = names is None or transfer.k <= len(names)
            require(known, "Transfer k", f"1…{len(names or ())} for {self.architecture}", transfer.k)

    def parents(self) -> dict[str, Model]:
        """The models that must be trained before, by their role."""
        roles = {"source": self.source, "teacher": self.teacher}
        return {role: model for role, model in roles.items() if model is not None}

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
            unusual = {
                "adversarial": self.method == "transfer-adversarial",
                self.transfer.head: self.transfer.head != "linear",
                self.transfer.kept: self.transfer.kept != "frozen",
                "from-standard": self.source.method == "standard",
            }
            parts += [f"TL{self.transfer.k}", *(word for word, said in unusual.items() if said)]
        parts += [self.variant] if self.variant else []
        parts += [f"seed{self.seed}"] if self.seed else []
        return "-".join(parts)

    def __str__(self) -> str:
        return self.id

    @property
    def digest(self) -> str:
        """SHA-256 over exactly the fields that the trained weights depend on, and the user's own code as it was imported."""
        code = code_of(self)
        return digest_of({"version": TRAINING_VERSION, "model": describe(self), **({"code": code} if code else {})})


def code_of(*values: Any) -> list[str]:
    """What identifies the code behind specs and functions that is not robbench's: SHA-256 of modules, timm's version."""
    modules = {module for value in values for module in _modules(value)}
    return sorted(
        filter(None, (f"timm {version(module)}" if module == "timm" else sha256_of(module) for module in modules))
    )


def edited_code(*values: Any) -> list[Path]:
    """Files behind specs and functions that were edited after they had been imported: what runs is what they were before."""
    modules = {module for value in values for module in _modules(value)}
    return sorted(filter(None, map(edited, modules - {"timm"})))


def _modules(value: Any) -> Iterator[str]:
    """Modules of the classes, functions and networks in a value, robbench's left out."""
    if isinstance(value, Spec) or callable(value):
        module = type(value).__module__ if isinstance(value, Spec) else value.__module__
        if module.partition(".")[0] != "robbench":
            yield module
    if isinstance(value, Model) and (own := own_module(value.architecture)):
        yield own
    if isinstance(value, Model) and value.architecture.startswith("timm:"):
        yield "timm"
    parts = [getattr(value, each.name) for each in fields(value)] if isinstance(value, Spec) else value
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from _modules(part)
