"""Studies: which models, on which data, by which recipes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from robbench.errors import RobbenchError, require, unknown
from robbench.spec.catalogue import block_names
from robbench.spec.checks import LONGEST_NAME, Checked, choice, file_name, positive_int, random_seed
from robbench.spec.model import Checkpoint, Estimate, Head, Kept, Model, Transfer
from robbench.spec.protocol import EFFECTS, Protocol, ProtocolField, thesis_dataset, thesis_kept, thesis_recipe
from robbench.spec.training import PGD, Dataset, Recipe

_PARAMETERLESS = frozenset({"avg_pool"})

_QUICK_QUERIES = 12
"""Of Square at quick scale, at most."""


@dataclass(frozen=True, kw_only=True)
class Quick(Checked):
    """The size a study shrinks to under ``--robbench-quick``: every stage runs, no figure means anything."""

    train: int = 256
    test: int = 64
    epochs: int = 1
    attack_steps: int = 2
    images: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        for field in fields(self):
            positive_int(f"quick {field.name}", getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class Transfers(Checked):
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
        super().__post_init__()
        choice("transfers source", self.source, Literal["adversarial", "standard"])
        require(self.k is None or len(self.k) > 0, "transfers k", "None for every k, or at least one", self.k)
        for k in self.k or (1,):
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
class Study(Checked):
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
    on_request: bool = False
    """Skipped unless its file, or a test in it, is named on the command line."""
    quick: Quick = Quick()
    protocol: Protocol = "sound"
    ablate: tuple[ProtocolField, ...] = ()
    """Fields of the thesis protocol to follow one at a time: each adds the models that it changes."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.name.replace("-", "").replace("_", "").isalnum(),
            "study name",
            "letters, digits, '-' and '_' (it names folders)",
            self.name,
        )
        file_name("study name", self.name)
        for field in ("source", "target"):
            if isinstance(getattr(self, field), str):
                object.__setattr__(self, field, Dataset(name=getattr(self, field)))
        require(len(self.architectures) > 0, "architectures", "at least one", self.architectures)
        for architecture in self.architectures:
            block_names(architecture)
        for value in self.seeds:
            random_seed("seeds", value)
        require(0 < len(set(self.seeds)) == len(self.seeds), "seeds", "distinct integers ≥ 0", self.seeds)
        choice("protocol", self.protocol, Protocol)
        require(
            self.protocol == "sound"
            or all(row.kept == "finetuned" or row.kept_statistics == "train" for row in self.transfers),
            "study protocol",
            "'sound' in a declaration; recipes.with_protocol(study, 'thesis') or --robbench-protocol thesis change it",
            self.protocol,
        )
        for field in self.ablate:
            choice("field to ablate", field, ProtocolField)
        require(len(set(self.ablate)) == len(self.ablate), "fields to ablate", "each once", self.ablate)
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
        longest = max((f"{self.name}-{name}" for name in names), key=lambda name: len(name.encode()))
        require(
            len(longest.encode()) <= 2 * LONGEST_NAME,
            "study name and model",
            f"at most {2 * LONGEST_NAME} bytes together, as they name files",
            longest,
        )

    def models(self) -> tuple[Model, ...]:
        """The study's models, each after the source it is transferred from; then the variants of an ablation."""
        return (*self._declared(), *(model for field in self.ablate for model in self._variants(field)))

    def _declared(self) -> Iterator[Model]:
        for seed in self.seeds:
            for name in self.architectures:
                yield from self._of_architecture(name, seed)

    def _variants(self, field: ProtocolField) -> Iterator[Model]:
        """The models that the thesis's value of one field changes; their sources are the changed ones, too."""
        labelled: dict[str, Model] = {}
        changed = replace(self, ablate=()).with_thesis((field,))
        for model, other in zip(self._declared(), changed._declared(), strict=True):
            labelled[model.id] = model
            if other != model:
                source = other.source and labelled[other.source.id]
                labelled[model.id] = replace(other, source=source, variant=field)
                yield labelled[model.id]

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
            if architecture == "cnn3":
                notes.append(
                    "cnn3: its convolution is frozen and reset like any block; the published code did neither, so its "
                    "TL rows stand beside other models"
                )
            names = block_names(architecture) or ()
            for k, block in enumerate(reversed(names), 1):
                if block in _PARAMETERLESS and self.protocol == "sound":
                    notes.append(
                        f"{architecture}: block {block!r} has no parameters, so TL#{k} is TL#{k - 1} over again "
                        "and is not trained twice"
                    )
        for field in self.ablate:
            count = sum(1 for _ in self._variants(field))
            what = f"as declared but for one field, {count} models" if count else "changes no model of this study"
            notes.append(f"variant {field!r}, {what}: {EFFECTS[field]}")
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
        final = tuple(dict.fromkeys(cut for spec in self.estimate.final_test if (cut := attack(spec))))
        audit = self.estimate.audit
        small = self.with_recipes(recipe).with_datasets(dataset)
        return replace(
            small,
            name=f"{self.name}-quick",
            estimate=replace(
                self.estimate,
                attack=oracle,
                images=min(self.estimate.images, quick.images),
                final_test=final,
                audit=audit and replace(audit, square_queries=min(audit.square_queries, _QUICK_QUERIES)),
            ),
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

    def with_thesis(self, names: Collection[ProtocolField]) -> Study:
        """The study with the thesis's values of these fields, and all others as declared."""
        changed = self.with_recipes(lambda recipe: thesis_recipe(recipe, names)).with_datasets(
            lambda dataset: thesis_dataset(dataset, names)
        )
        rows = tuple(replace(row, **thesis_kept(row.kept, names)) for row in changed.transfers)
        return replace(changed, transfers=rows)

    def with_datasets(self, change: Any) -> Study:
        """The study with ``change(dataset)`` in place of source and target."""
        return replace(self, source=change(self.source), target=change(self.target))


def _of(recipe: Recipe | Mapping[str, Recipe], architecture: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if architecture not in recipe:
        raise unknown("recipe for architecture", architecture, recipe)
    return recipe[architecture]
