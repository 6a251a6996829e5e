"""Transfers, checkpoints and models: the cases of a study."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import field, fields
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator

from robbench.errors import RobbenchError, require
from robbench.spec.base import UNDESCRIBED, UNUSUAL, Count, Number, PositiveInt, Share, Spec
from robbench.spec.catalogue import block_names, own_module
from robbench.spec.description import describe, digest_of
from robbench.spec.objectives import TWINS, Distillation, LwF
from robbench.spec.own_code import edited, remember, sha256_of
from robbench.spec.searches import LIBRARIES, Attack
from robbench.spec.training import Dataset, Recipe

TRAINING_VERSION = 1
"""Raised when the training code changes what comes out of a spec; models trained before are then trained again."""

ESTIMATION_VERSION = 5
"""Raised when the estimation code changes what comes out of a spec; p* is then estimated again."""

Head = Literal["linear", "mlp1", "mlp2", "mlp3"]
Kept = Literal["frozen", "finetuned", "warm", "critical", "lora"]


class Transfer(Spec):
    """TL#k: the last k blocks re-initialised and retrained on the target, the others kept."""

    k: PositiveInt
    head: Head = "linear"
    kept: Kept = "frozen"
    """frozen, finetuned at a lower rate, or warm: retrained like the others, but from the source's weights.

    critical is RiFT (Zhu et al. 2023): after the head alone, the block that robustness depends on least is fine-tuned with
    it at the lower rate, and the weights are interpolated back as far as robustness asks for it.

    lora is LoRA (Hu et al. 2022): a branch of low ``rank`` beside each frozen linear layer and convolution learns with the
    last k blocks, at the full rate, and is merged into it in the end. AutoLoRa (Xu et al. 2024) trains such a branch by the
    natural part of a loss and the layers themselves by the adversarial part, drops the branch, and chooses the rate and the
    weights of both parts by itself. All that is left out: branches learn what the recipe says.
    """
    kept_scale: Share = 0.01
    """Learning-rate factor of fine-tuned kept blocks; 0.001 in the study's code."""
    kept_statistics: Literal["eval", "train"] = "eval"
    """Mode of the frozen blocks; 'train' lets their batch-norm statistics drift (thesis)."""
    rank: PositiveInt = field(default=8, metadata=UNUSUAL)
    """Of the branches of lora; 8 in AutoLoRa's code."""

    def __post_init__(self) -> None:
        both = self.kept_scale, self.kept_statistics
        unset = self.kept not in ("warm", "lora") or both == (Transfer.kept_scale, Transfer.kept_statistics)
        how = f"neither beside kept={self.kept!r}, which trains at the full rate"
        require(unset, "Transfer kept_scale and kept_statistics", how, both)
        if self.kept == "critical":
            require(self.k == 1, "Transfer k", "1 with kept='critical', where all but the head is kept", self.k)
            still = self.kept_statistics == "eval"
            require(still, "Transfer kept_statistics", "'eval' with kept='critical'", self.kept_statistics)


_Values = Annotated[
    tuple[Number, ...], BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value)
]


class Checkpoint(Spec):
    """Trained weights from elsewhere: a file of safetensors, or of ``torch.save``; or ``timm:NAME``, which timm publishes.

    Nothing but tensors and plain values is read from the file: ``torch.load(weights_only=True)``.
    """

    path: Annotated[str, BeforeValidator(lambda path: str(path) if isinstance(path, Path) else path)] = field(
        kw_only=False
    )
    mean: _Values | None = None
    """Of each channel, or of all; the normalisation that the weights were trained with: ``mean=0, std=1`` for plain pixels
    in [0, 1]. None: the file holds it."""
    std: _Values | None = None
    part: str | None = None
    """Where the file holds several networks that fit: a word of the names before the one to take, such as ``ema``."""

    def __post_init__(self) -> None:
        both = self.mean, self.std
        require((self.mean is None) == (self.std is None), "Checkpoint mean and std", "both or none", both)
        require(len(self.mean or ()) == len(self.std or ()), "Checkpoint mean and std", "as many values", both)
        require(all(value > 0 for value in self.std or ()), "Checkpoint std", "numbers > 0", self.std)

    @classmethod
    def from_description(cls, *, sha256: str | None = None, timm: str | None = None, **values: Any) -> Self:
        """A checkpoint of which only the SHA-256, or timm's name, is known."""
        checkpoint = cls(path=f"timm:{timm}" if timm else f"{sha256}.safetensors", **values)
        if sha256:
            checkpoint.__dict__["sha256"] = sha256  # in place of the cached property's
        return checkpoint

    def canonical(self) -> dict[str, Any]:
        """The described form: what is in the file, wherever it lies, or what timm calls it."""
        which = {"timm": self.timm} if self.timm else {"sha256": self.sha256}
        return {"kind": "Checkpoint", **which, "mean": self.mean, "std": self.std, "part": self.part}

    @property
    def timm(self) -> str | None:
        """What timm calls the weights, such as ``resnet18.a1_in1k``; None for a file."""
        return self.path.removeprefix("timm:") if self.path.startswith("timm:") else None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the file; a RobbenchError if it cannot be read."""
        return hashlib.sha256(self.read()).hexdigest()

    def read(self) -> bytes:
        """The file's content; a RobbenchError if it cannot be read."""
        try:
            return Path(self.path).read_bytes()
        except OSError as error:
            raise RobbenchError(f"checkpoint {self.path!r} cannot be read: {error.strerror or error}") from error


class Model(Spec):
    """One case: a network trained from scratch, transferred from a source model, or with weights of the user's.

    These are a checkpoint, or, without one and without a recipe, those that the user's own function builds it with.
    """

    architecture: str
    dataset: Dataset
    recipe: Recipe | None = None
    transfer: Transfer | None = None
    source: Model | Checkpoint | None = None
    """Where the kept blocks come from: a checkpoint by itself where the data that it was trained on are not at hand."""
    teacher: Model | None = None
    """What the recipe's objective imitates: of any architecture, trained or with a checkpoint."""
    checkpoint: Checkpoint | None = None
    seed: Count = 0
    variant: str | None = field(default=None, metadata=UNDESCRIBED)
    """The field of the thesis protocol that this model of an ablation follows."""

    def __post_init__(self) -> None:
        names = block_names(self.architecture)
        remember(own_module(self.architecture) or "")
        transfer, source = self.transfer, self.source
        if self.checkpoint is not None:
            alone = self.recipe is None and transfer is None and source is None and not self.parents()
            require(alone, "Model checkpoint", "no recipe, transfer, source or teacher beside it", self.checkpoint)
            name = self.checkpoint.timm
            base = f"timm:{name.partition('.')[0]}" if name else self.architecture
            same = base == self.architecture.partition(".")[0] or not name
            require(same, f"architecture of the weights {self.checkpoint.path!r}", repr(base), self.architecture)
            return
        if self.recipe is None:
            own = own_module(self.architecture) is not None and transfer is None and source is None
            how = "a Recipe, a Checkpoint, or a package.module:function that builds the network with its weights"
            require(own, "Model recipe", how, self.recipe)
            return
        for role in self.recipe.objective.parents:
            given = getattr(self, role, None)
            require(given is not None, f"Model {role}", "the model that the recipe's objective needs", None)
        if self.teacher is not None and isinstance(self.recipe.objective, Distillation):
            mine, theirs = self.dataset.name, self.teacher.dataset.name
            require(mine == theirs, "Model teacher", f"a model of the student's dataset, {mine!r}", theirs)
        if isinstance(self.recipe.objective, LwF):
            fits = transfer is not None and (transfer.k, transfer.kept) == (1, "finetuned")
            require(fits, "Model transfer", "k=1 and kept='finetuned' with LwF, which begins with the head", transfer)
        if isinstance(self.recipe.objective, TWINS):
            warm = transfer is not None and transfer.kept == "warm"
            require(warm, "Model transfer", "kept='warm' with TWINS, where all layers learn", transfer)
        require((transfer is None) == (source is None), "Model transfer", "transfer and source together", transfer)
        if isinstance(source, Model):
            same = source.architecture == self.architecture
            require(same, "Model source", f"the target's architecture {self.architecture!r}", source.architecture)
        if transfer is not None:
            known = names is None or transfer.k <= len(names)
            require(known, "Transfer k", f"1…{len(names or ())} for {self.architecture}", transfer.k)
            attacked = self.recipe.attack or (isinstance(source, Model) and source.recipe and source.recipe.attack)
            how = "a model trained with a PGD, or one in the recipe, with kept='critical', which judges by it"
            require(transfer.kept != "critical" or bool(attacked), "Model source", how, source)

    def parents(self) -> dict[str, Model]:
        """The models that must be trained before, by their role."""
        roles = {"source": self.source, "teacher": self.teacher}
        return {role: model for role, model in roles.items() if isinstance(model, Model)}

    @property
    def method(self) -> str:
        """``standard``, ``pgd``, ``transfer``, ``transfer-adversarial`` or ``checkpoint``.

        From scratch with another objective than cross-entropy it is :attr:`Recipe.method`.
        """
        if self.recipe is None:
            return "checkpoint"
        if self.transfer is None:
            return self.recipe.method or ("pgd" if self.recipe.adversarial else "standard")
        return "transfer-adversarial" if self.recipe.adversarial else "transfer"

    @property
    def id(self) -> str:
        """Readable name, unique within a study: ``cnn7-emnist-TL3-adversarial``."""
        parts = [self.architecture.replace("timm:", "").replace(":", ".").replace("/", "_"), self.dataset.name]
        if self.transfer is None:
            parts.append(self.method)
        else:
            source = self.source.method if isinstance(self.source, Model) else ""
            unusual = {
                "adversarial": self.method == "transfer-adversarial",
                self.transfer.head: self.transfer.head != "linear",
                self.transfer.kept: self.transfer.kept != "frozen",
                f"from-{source}": source not in ("", "pgd", "checkpoint"),
                self.recipe.method if self.recipe else "": bool(self.recipe and self.recipe.method),
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
    """What identifies the code behind specs and functions that is not robbench's: SHA-256 of modules, libraries' versions."""
    modules = {module for value in values for module in _modules(value)}
    return sorted(filter(None, map(identified, modules)))


def modules_of(*values: Any) -> dict[str, str | None]:
    """The modules behind specs and functions that are not robbench's, and what identifies the code of each."""
    modules = {module for value in values for module in _modules(value)}
    return {module: identified(module) for module in sorted(modules)}


def edited_code(*values: Any) -> list[Path]:
    """Files behind specs and functions that were edited after they had been imported: what runs is what they were before."""
    modules = {module for value in values for module in _modules(value)}
    return sorted(filter(None, map(edited, modules - LIBRARY_MODULES.keys())))


def _modules(value: Any) -> Iterator[str]:
    """Modules of the classes, functions and networks in a value, robbench's left out."""
    if isinstance(value, Spec) or callable(value):
        module = type(value).__module__ if isinstance(value, Spec) else value.__module__
        if module.partition(".")[0] != "robbench":
            yield module
    if isinstance(value, Model) and (own := own_module(value.architecture)):
        yield own
    if isinstance(value, Attack):
        yield value.module
    if isinstance(value, Model) and value.architecture.startswith("timm:"):
        yield "timm"
    parts = [getattr(value, each.name) for each in fields(value)] if isinstance(value, Spec) else value
    if isinstance(parts, list | tuple):
        for part in parts:
            yield from _modules(part)


LIBRARY_MODULES = {"timm": "timm", **LIBRARIES}
"""Packages that their version identifies."""


def identified(module: str) -> str | None:
    """None for what cannot be found: what needs it says what is wrong."""
    if module not in LIBRARY_MODULES:
        return sha256_of(module)
    try:
        return f"{LIBRARY_MODULES[module]} {version(LIBRARY_MODULES[module])}"
    except PackageNotFoundError:
        return None
