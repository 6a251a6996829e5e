"""Studies: which models, on which data, by which recipes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from robbench.errors import require, unknown
from robbench.spec.base import Count, Expected, PositiveInt, Share, Spec
from robbench.spec.cases import models_of, notes_of
from robbench.spec.catalogue import block_names
from robbench.spec.estimate import Estimate
from robbench.spec.model import Checkpoint, Head, Kept, Model, Transfer
from robbench.spec.protocol import Protocol, ProtocolField, thesis_dataset, thesis_kept, thesis_recipe
from robbench.spec.quick import Quick, shrink
from robbench.spec.training import Dataset, Recipe


class Transfers(Spec):
    """A row of transfers in a study: these architectures, each k, one head, one recipe."""

    recipe: Recipe | Mapping[str, Recipe]
    architectures: tuple[str, ...] | None = None
    """None: all of the study's."""
    k: tuple[PositiveInt, ...] | None = None
    """None: every k from 1 to K."""
    head: Head = "linear"
    kept: Kept = "frozen"
    kept_scale: Share = 0.01
    kept_statistics: Literal["eval", "train"] = "eval"
    source: Literal["adversarial", "standard"] = "adversarial"
    """Which source model the blocks come from."""

    def __post_init__(self) -> None:
        require(self.k != (), "Transfers k", "None for every k, or at least one", self.k)

    def transfer(self, k: int) -> Transfer:
        """The row's transfer that retrains the last k blocks."""
        return Transfer(
            k=k, head=self.head, kept=self.kept, kept_scale=self.kept_scale, kept_statistics=self.kept_statistics
        )


class Study(Spec):
    """One robustness-transfer study: a source and a target dataset, architectures, recipes, transfers, an estimate."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$"), Expected("letters, digits, '-' and '_' (it names folders)")]
    source: Dataset | str
    target: Dataset | str
    architectures: Annotated[tuple[str, ...], Field(min_length=1), Expected("a tuple of at least one name")]
    standard: Recipe | Mapping[str, Recipe]
    adversarial: Recipe | Mapping[str, Recipe]
    transfers: tuple[Transfers, ...]
    estimate: Estimate
    source_checkpoint: Checkpoint | None = None
    """Weights to use as the adversarially trained source model, instead of training one."""
    seeds: Annotated[tuple[Count, ...], Field(min_length=1), Expected("a tuple of integers ≥ 0")] = (0,)
    needs_cuda: bool = False
    """Skipped without a CUDA device, unless quick or forced with ``--robbench-device cpu``."""
    on_request: bool = False
    """Skipped unless its file, or a test in it, is named on the command line."""
    quick: Quick = Quick()
    protocol: Protocol = "sound"
    ablate: tuple[ProtocolField, ...] = ()
    """Fields of the thesis protocol to follow one at a time: each adds the models that it changes."""

    def __post_init__(self) -> None:
        for field in ("source", "target"):
            if isinstance(name := getattr(self, field), str):
                object.__setattr__(self, field, Dataset(name=name))
        source, target = self.datasets
        differ = source.name != target.name or source == target
        require(differ, "Study source and target", "two names, or one Dataset for both", source.name)
        for field in ("architectures", "seeds", "ablate"):
            values = getattr(self, field)
            require(len(set(values)) == len(values), f"Study {field}", "each value once", values)
        for architecture in self.architectures:
            block_names(architecture)
        for row in self.transfers:
            for architecture in row.architectures or ():
                if architecture not in self.architectures:
                    raise unknown("architecture of a transfer", architecture, self.architectures)
        thesis = all(row.kept == "finetuned" or row.kept_statistics == "train" for row in self.transfers)
        how = (
            "'sound' in a declaration (recipes.with_protocol(study, 'thesis') or --robbench-protocol thesis change it)"
        )
        require(self.protocol == "sound" or thesis, "Study protocol", how, self.protocol)
        one = self.source_checkpoint is None or len(self.architectures) == 1
        require(one, "Study source_checkpoint", "one architecture beside it", self.architectures)
        names = [model.id for model in self.models()]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"study {self.name!r}", "every model declared once", ", ".join(twice))

    @property
    def datasets(self) -> tuple[Dataset, Dataset]:
        """Source and target."""
        assert isinstance(self.source, Dataset)
        assert isinstance(self.target, Dataset)
        return self.source, self.target

    def models(self) -> tuple[Model, ...]:
        """The study's models, each after the source it is transferred from; then the variants of an ablation."""
        return models_of(self)

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about what was left out, and why."""
        return notes_of(self)

    def shrunk(self) -> Study:
        """The study at its quick scale, under the name ``<name>-quick``."""
        return shrink(self)

    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Study:
        """The study with ``change(recipe)`` in place of every recipe."""

        def each(recipe: Recipe | Mapping[str, Recipe]) -> Recipe | Mapping[str, Recipe]:
            if isinstance(recipe, Recipe):
                return change(recipe)
            return {name: change(value) for name, value in recipe.items()}

        rows = tuple(replace(row, recipe=each(row.recipe)) for row in self.transfers)
        return replace(self, standard=each(self.standard), adversarial=each(self.adversarial), transfers=rows)

    def with_datasets(self, change: Callable[[Dataset], Dataset]) -> Study:
        """The study with ``change(dataset)`` in place of source and target."""
        source, target = self.datasets
        return replace(self, source=change(source), target=change(target))

    def with_thesis(self, names: Collection[ProtocolField]) -> Study:
        """The study with the thesis's values of these fields, and all others as declared."""
        changed = self.with_recipes(lambda recipe: thesis_recipe(recipe, names)).with_datasets(
            lambda dataset: thesis_dataset(dataset, names)
        )
        rows = tuple(replace(row, **thesis_kept(row.kept, names)) for row in changed.transfers)
        return replace(changed, transfers=rows)
