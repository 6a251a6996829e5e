"""Studies: which models, on which data, by which recipes, in the order in which they are trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import chain
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from robbench.errors import RobbenchError, require, unknown
from robbench.spec.base import Count, Expected, PositiveInt, Share, Spec
from robbench.spec.catalogue import block_names
from robbench.spec.certified import Bounds
from robbench.spec.estimate import Estimate
from robbench.spec.model import Checkpoint, Head, Kept, Model, Transfer
from robbench.spec.prediction import Drift
from robbench.spec.protocol import (
    EFFECTS,
    Protocol,
    ProtocolField,
    froze_nothing,
    thesis_dataset,
    thesis_estimate,
    thesis_kept,
    thesis_recipe,
    thesis_retraining,
)
from robbench.spec.training import Dataset, Recipe

_PARAMETERLESS = frozenset({"avg_pool"})

_Parent = TypeVar("_Parent", bound="Model | Checkpoint | None")


class Transfers(Spec):
    """A row of transfers in a study."""

    recipe: Recipe | Mapping[str, Recipe]
    architectures: tuple[str, ...] | None = None
    """None: all of the study's."""
    k: Annotated[tuple[PositiveInt, ...], Field(min_length=1), Expected("integers ≥ 1")] | None = None
    """None: every k from 1 to K."""
    head: Head = "linear"
    kept: Kept = "frozen"
    kept_scale: Share = 0.01
    kept_statistics: Literal["eval", "train"] = "eval"
    rank: PositiveInt = 8
    """Of the branches of ``kept="lora"``."""
    source: str = "adversarial"
    """Which source model the blocks come from: ``adversarial``, ``standard``, or what a row of the study's ``scratch`` on
    the source data minimises (``ibp``)."""
    data: Literal["source", "target"] = "target"
    """What is retrained on. The source's own data tell at which k robustness falls, which predicts it for the target."""
    teacher: Model | None = None
    """What the recipe's objective imitates."""


class FromScratch(Spec):
    """A row of trainings from scratch by another objective, beside a study's ``standard`` and ``adversarial``."""

    recipe: Recipe | Mapping[str, Recipe]
    architectures: tuple[str, ...] | None = None
    """None: all of the study's."""
    data: Literal["source", "target"] = "target"
    teacher: Model | None = None
    """What the recipe's objective imitates."""


_Row = TypeVar("_Row", FromScratch, Transfers)


class Also(Spec):
    """A second estimate of some models, beside the study's own.

    It is a stage of the same kind under a second name (``robustness-reference``), so it has its own test item, baseline
    and columns, while its key in the store is that of any estimate. ``StageKind.specs`` says which stages a model has.
    """

    estimate: Estimate
    """By another search than the study's own."""
    models: Annotated[tuple[str, ...], Field(min_length=1), Expected("a tuple of at least one pattern")] = ("*",)
    """Shell patterns of the ids that ``robbench plan`` lists, without seed: ``*-pgd`` are the adversarially trained."""

    def asks(self, model: Model) -> bool:
        """Whether this model is to be estimated a second time."""
        return any(is_named(model, pattern) for pattern in self.models)


def is_named(model: Model, pattern: str) -> bool:
    """Whether a model's id without its seed matches a shell pattern."""
    return fnmatchcase(model.id.removesuffix(f"-seed{model.seed}"), pattern)


class Quick(Spec):
    """The size a study shrinks to under ``--robbench-quick``: every stage runs, no figure means anything."""

    train: PositiveInt = 256
    test: PositiveInt = 64
    epochs: PositiveInt = 1
    attack_steps: PositiveInt = 2
    images: PositiveInt = 16


class Study(Spec):
    """One robustness-transfer study."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$"), Expected("letters, digits, '-' and '_' (it names folders)")]
    source: Dataset | str | None = None
    """What source models are trained on, or a checkpoint is tested on; None: not at hand."""
    target: Dataset | str | None = None
    """None: nothing is transferred."""
    architectures: Annotated[tuple[str, ...], Field(min_length=1), Expected("a tuple of at least one name")]
    standard: Recipe | Mapping[str, Recipe] | None = None
    """Of conventional training from scratch, on source and target; None: no such models."""
    adversarial: Recipe | Mapping[str, Recipe] | None = None
    """Of adversarial training from scratch, likewise."""
    scratch: tuple[FromScratch, ...] = ()
    transfers: tuple[Transfers, ...] = ()
    estimate: Estimate
    also: tuple[Also, ...] = ()
    """Second estimates of some models, which reports hold beside the first."""
    bounds: Bounds | None = None
    """Certified lower bounds of the same radii; None: none."""
    drift: Drift | None = None
    """How far the features that transfers keep move under attack, which predicts the drop point; None: not measured."""
    source_checkpoint: Checkpoint | None = None
    """Weights of the adversarially trained source model, instead of training it.

    Without it and without recipes from scratch, the source model is the network as its function builds it.
    """
    seeds: Annotated[tuple[Count, ...], Field(min_length=1), Expected("a tuple of integers ≥ 0")] = (0,)
    needs_cuda: bool = False
    """Skipped without a CUDA device, unless quick or forced with ``--robbench-device cpu``."""
    on_request: bool = False
    """Skipped unless its file, or a test in it, is named on the command line."""
    quick: Quick = Quick()
    accuracy_floor: Annotated[float, Field(ge=0, le=1), Expected("a number from 0 to 1")] | None = None
    """No model of less clean accuracy is recommended; None: half of the conventional model's accuracy."""
    protocol: Protocol = "sound"
    ablate: tuple[ProtocolField, ...] = ()
    """Fields of the thesis protocol, each of which adds the models that it alone changes."""

    def __post_init__(self) -> None:
        for field in ("source", "target"):
            if isinstance(name := getattr(self, field), str):
                object.__setattr__(self, field, Dataset(name=name))
        require(bool(self.datasets), "Study source and target", "a data set in one of them at least", None)
        source, target = self.datasets[0], self.datasets[-1]
        differ = source.name != target.name or source == target
        require(differ, "Study source and target", "two names, or one Dataset for both", source.name)
        require(not self.transfers or self.target is not None, "Study target", "data for the transfers", None)
        for field in ("architectures", "seeds", "ablate"):
            values = getattr(self, field)
            require(len(set(values)) == len(values), f"Study {field}", "each value once", values)
        named = [row.architectures or () for row in self.transfers] + [row.architectures or () for row in self.scratch]
        for architecture in chain(*named):
            if architecture not in self.architectures:
                raise unknown("architecture of a row", architecture, self.architectures)
        for row in self.scratch:
            require(getattr(self, row.data) is not None, f"Study {row.data}", "data for the rows from scratch", None)
        for each in self.transfers:
            require(getattr(self, each.data) is not None, f"Study {each.data}", "data for its transfers", None)
        thesis = all(row.kept != "frozen" or row.kept_statistics == "train" for row in self.transfers)
        how = "'sound' in a declaration (--robbench-protocol thesis changes it)"
        require(self.protocol == "sound" or thesis, "Study protocol", how, self.protocol)
        one = self.source_checkpoint is None or len(self.architectures) == 1
        require(one, "Study source_checkpoint", "one architecture beside it", self.architectures)
        searches = [each.search_name for each in (self.estimate, *(each.estimate for each in self.also))]
        require(len(set(searches)) == len(searches), "Study also", "another search than its own, each once", searches)
        by_norm = self.bounds is None or self.estimate.norm == "linf"
        require(by_norm, "Study bounds", "none with norm l2 (they are of the linf norm)", self.bounds)
        models = self.models()
        how = "standard, adversarial or transfers, or source beside a source_checkpoint"
        require(bool(models), f"study {self.name!r}", f"something to run: {how}", None)
        bounds, verifier = self.bounds, self.bounds.verifier if self.bounds else None
        asked = {"Also": [pattern for each in self.also for pattern in each.models]}
        asked |= {
            "Bounds": list(bounds.models) if bounds else [],
            "Verifier": list(verifier.models) if verifier else [],
        }
        for what, pattern in ((what, pattern) for what, patterns in asked.items() for pattern in patterns):
            found = any(is_named(model, pattern) for model in models)
            require(found, f"{what} models", "patterns of the study's models ('*-pgd', '*-TL3')", pattern)
        names = [model.id for model in models]
        twice = sorted({name for name in names if names.count(name) > 1})
        require(not twice, f"study {self.name!r}", "every model declared once", ", ".join(twice))

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Source and target, those there are."""
        return tuple(dataset for dataset in (self.source, self.target) if isinstance(dataset, Dataset))

    def models(self) -> tuple[Model, ...]:
        """The study's models, each after its source and its teacher; then the variants of an ablation."""
        declared = tuple(_declared(self))
        teachers = [row.teacher for row in self.scratch] + [row.teacher for row in self.transfers]
        apart = dict.fromkeys(teacher for teacher in teachers if teacher is not None and teacher not in declared)
        return (*apart, *declared, *(model for field in self.ablate for model in _variants(self, field)))

    def notes(self) -> tuple[str, ...]:
        """What a reader of the results must know about what was left out, and why."""
        notes = []
        if "cnn3" in self.architectures:
            notes.append(
                "cnn3: its convolution is frozen and reset like any block; the published code did neither, so its "
                "TL rows stand beside other models"
            )
        target = self.datasets[-1]
        if target.name == "cifar100" and any(_froze_nothing(row, target) for row in self.transfers):
            notes.append(
                "adversarial retraining freezes what is kept; the published code retrained the whole network "
                "(`kept='warm'`), so that these TL rows stand beside no published ones"
            )
        for architecture in self.architectures if self.protocol == "sound" else ():
            for k, block in enumerate(reversed(block_names(architecture) or ()), 1):
                if block in _PARAMETERLESS:
                    notes.append(
                        f"{architecture}: block {block!r} has no parameters, so TL#{k} is TL#{k - 1} over again "
                        "and is not trained twice"
                    )
        for field in self.ablate:
            count = sum(1 for _ in _variants(self, field))
            what = f"as declared but for one field, {count} models" if count else "changes no model of this study"
            notes.append(f"variant {field!r}, {what}: {EFFECTS[field]}")
        return tuple(notes)

    def with_recipes(self, change: Callable[[Recipe], Recipe]) -> Study:
        """The study with ``change(recipe)`` in place of every recipe."""

        def changed(row: _Row) -> _Row:
            return replace(row, recipe=_each(row.recipe, change), teacher=_changed(row.teacher, recipe=change))

        scratch, rows = tuple(map(changed, self.scratch)), tuple(map(changed, self.transfers))
        standard, adversarial = (each and _each(each, change) for each in (self.standard, self.adversarial))
        return replace(self, standard=standard, adversarial=adversarial, scratch=scratch, transfers=rows)

    def with_datasets(self, change: Callable[[Dataset], Dataset]) -> Study:
        """The study with ``change(dataset)`` in place of source and target."""

        def changed(row: _Row) -> _Row:
            return replace(row, teacher=_changed(row.teacher, dataset=change))

        scratch, rows = tuple(map(changed, self.scratch)), tuple(map(changed, self.transfers))
        source, target = (change(each) if isinstance(each, Dataset) else None for each in (self.source, self.target))
        return replace(self, source=source, target=target, scratch=scratch, transfers=rows)

    def with_thesis(self, names: Collection[ProtocolField]) -> Study:
        """The study with the thesis's values of these fields, and all others as declared.

        A study that declares warm transfers itself keeps its frozen ones frozen.
        """
        if any(row.kept == "warm" for row in self.transfers):
            names = set(names) - {"kept"}
        changed = self.with_recipes(lambda recipe: thesis_recipe(recipe, names)).with_datasets(
            lambda dataset: thesis_dataset(dataset, names)
        )
        rows = tuple(_thesis_row(row, changed.datasets[-1], names) for row in changed.transfers)
        normalised = any(dataset.mean for dataset in self.datasets)
        estimate = thesis_estimate(self.estimate, names, normalised=normalised)
        also = tuple(each for each in self.also if each.estimate.search_name != estimate.search_name)
        return replace(changed, transfers=rows, estimate=estimate, also=also)


def _changed(model: _Parent, **change: Callable[[Any], Any]) -> _Parent:
    """A model with ``change`` of its recipe or dataset, in all that it comes from, too; None and checkpoints stay."""
    if not isinstance(model, Model):
        return model
    fields = {name: function(value) for name, function in change.items() if (value := getattr(model, name))}
    parents = {role: _changed(getattr(model, role), **change) for role in ("source", "teacher")}
    return replace(model, **fields, **parents)


def _each(recipe: Recipe | Mapping[str, Recipe], change: Callable[[Recipe], Recipe]) -> Recipe | Mapping[str, Recipe]:
    if isinstance(recipe, Recipe):
        return change(recipe)
    return {name: change(value) for name, value in recipe.items()}


def _froze_nothing(row: Transfers, target: Dataset) -> bool:
    recipes = [row.recipe] if isinstance(row.recipe, Recipe) else row.recipe.values()
    return all(froze_nothing(row.kept, recipe, target) for recipe in recipes)


def _thesis_row(row: Transfers, target: Dataset, names: Collection[ProtocolField]) -> Transfers:
    warm = "kept" in names and _froze_nothing(row, target)
    recipe = _each(row.recipe, lambda recipe: thesis_retraining(recipe, target, names, warm=warm))
    return replace(row, recipe=recipe, **({"kept": "warm"} if warm else thesis_kept(row.kept, names)))


def _declared(study: Study) -> Iterator[Model]:
    for seed in study.seeds:
        for architecture in study.architectures:
            yield from _of_architecture(study, architecture, seed)


def _variants(study: Study, field: ProtocolField) -> Iterator[Model]:
    """The models that the thesis's value of one field changes, from sources that it changes, too."""
    labelled: dict[str, Model] = {}
    changed = replace(study, ablate=()).with_thesis((field,))
    for model, other in zip(_declared(study), _declared(changed), strict=True):
        labelled[model.id] = model
        if other != model:
            source = labelled[other.source.id] if isinstance(other.source, Model) else other.source
            labelled[model.id] = replace(other, source=source, variant=field)
            yield labelled[model.id]


def _of_architecture(study: Study, architecture: str, seed: int) -> Iterator[Model]:
    scratch = {
        (dataset, method): Model(
            architecture=architecture, dataset=dataset, recipe=_recipe_for(recipe, architecture), seed=seed
        )
        for method, recipe in (("standard", study.standard), ("adversarial", study.adversarial))
        for dataset in study.datasets
        if recipe is not None
    }
    mine = study.source_checkpoint
    if isinstance(study.source, Dataset) and (mine is not None or not scratch):
        source = Model(architecture=architecture, dataset=study.source, checkpoint=mine, seed=seed)
        scratch[study.source, "adversarial"] = source
    yield from scratch.values()
    for extra in study.scratch:
        if extra.architectures is None or architecture in extra.architectures:
            made = Model(
                architecture=architecture,
                dataset=getattr(study, extra.data),
                recipe=_recipe_for(extra.recipe, architecture),
                teacher=extra.teacher,
                seed=seed,
            )
            scratch[made.dataset, made.method] = made
            yield made
    for row in study.transfers:
        if row.architectures is None or architecture in row.architectures:
            start = _source_of(row, study, scratch)
            kept = {name: getattr(row, name) for name in ("head", "kept", "kept_scale", "kept_statistics", "rank")}
            for k in row.k or _every_k(study, architecture):
                yield Model(
                    architecture=architecture,
                    dataset=study.datasets[-1 if row.data == "target" else 0],
                    recipe=_recipe_for(row.recipe, architecture),
                    transfer=Transfer(k=k, **kept),
                    source=start,
                    teacher=row.teacher,
                    seed=seed,
                )


def _source_of(row: Transfers, study: Study, scratch: Mapping[tuple[Dataset, str], Model]) -> Model | Checkpoint:
    """The model that a row of transfers starts from; the checkpoint itself where the source data are not at hand."""
    alone = study.source_checkpoint if row.source == "adversarial" else None
    found = scratch.get((study.source, row.source)) if isinstance(study.source, Dataset) else alone
    if found is None and row.source not in ("adversarial", "standard"):
        known = ["adversarial", "standard", *(method for dataset, method in scratch if dataset == study.source)]
        raise unknown("source of transfers", row.source, dict.fromkeys(known))
    if found is None:
        either = f"{row.source}= beside source=" + ", or source_checkpoint=" * (row.source == "adversarial")
        raise RobbenchError(f"Study transfers from source={row.source!r}: expected {either}, got neither")
    return found


def _every_k(study: Study, architecture: str) -> tuple[int, ...]:
    names = block_names(architecture)
    how = f"k=(1, 2, …), since only the built network knows its blocks (`robbench list {architecture}` prints them)"
    require(names is not None, f"transfers of {architecture!r}", how, None)
    repeats = _PARAMETERLESS if study.protocol == "sound" else frozenset()
    return tuple(k for k, block in enumerate(reversed(names or ()), 1) if block not in repeats)


def _recipe_for(recipe: Recipe | Mapping[str, Recipe], architecture: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if architecture not in recipe:
        raise unknown("recipe for architecture", architecture, recipe)
    return recipe[architecture]
