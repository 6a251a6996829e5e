"""The models of a study, in the order in which they are trained, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from robbench.errors import RobbenchError, unknown
from robbench.spec.catalogue import block_names
from robbench.spec.model import Model
from robbench.spec.protocol import EFFECTS, ProtocolField
from robbench.spec.training import Recipe

if TYPE_CHECKING:
    from robbench.spec.study import Study

_PARAMETERLESS = frozenset({"avg_pool"})


def models_of(study: Study) -> tuple[Model, ...]:
    """Each model after the source it is transferred from; then the variants of an ablation."""
    return (*_declared(study), *(model for field in study.ablate for model in _variants(study, field)))


def notes_of(study: Study) -> tuple[str, ...]:
    """What a reader of the results must know about what was left out, and why."""
    notes = []
    for architecture in study.architectures:
        if architecture == "cnn3":
            notes.append(
                "cnn3: its convolution is frozen and reset like any block; the published code did neither, so its "
                "TL rows stand beside other models"
            )
        for k, block in enumerate(reversed(block_names(architecture) or ()), 1):
            if block in _PARAMETERLESS and study.protocol == "sound":
                notes.append(
                    f"{architecture}: block {block!r} has no parameters, so TL#{k} is TL#{k - 1} over again "
                    "and is not trained twice"
                )
    for field in study.ablate:
        count = sum(1 for _ in _variants(study, field))
        what = f"as declared but for one field, {count} models" if count else "changes no model of this study"
        notes.append(f"variant {field!r}, {what}: {EFFECTS[field]}")
    return tuple(notes)


def _declared(study: Study) -> Iterator[Model]:
    for seed in study.seeds:
        for architecture in study.architectures:
            yield from _of_architecture(study, architecture, seed)


def _variants(study: Study, field: ProtocolField) -> Iterator[Model]:
    """The models that the thesis's value of one field changes; their sources are the changed ones, too."""
    labelled: dict[str, Model] = {}
    changed = replace(study, ablate=()).with_thesis((field,))
    for model, other in zip(_declared(study), _declared(changed), strict=True):
        labelled[model.id] = model
        if other != model:
            source = other.source and labelled[other.source.id]
            labelled[model.id] = replace(other, source=source, variant=field)
            yield labelled[model.id]


def _of_architecture(study: Study, architecture: str, seed: int) -> Iterator[Model]:
    source, target = study.datasets
    scratch = {
        (dataset.name, method): Model(
            architecture=architecture, dataset=dataset, recipe=_recipe_for(recipe, architecture), seed=seed
        )
        for method, recipe in (("standard", study.standard), ("adversarial", study.adversarial))
        for dataset in (source, target)
    }
    if study.source_checkpoint is not None:
        scratch[source.name, "adversarial"] = Model(
            architecture=architecture, dataset=source, checkpoint=study.source_checkpoint, seed=seed
        )
    yield from scratch.values()
    for row in study.transfers:
        if row.architectures is None or architecture in row.architectures:
            for k in row.k or _every_k(study, architecture):
                yield Model(
                    architecture=architecture,
                    dataset=target,
                    recipe=_recipe_for(row.recipe, architecture),
                    transfer=row.transfer(k),
                    source=scratch[source.name, row.source],
                    seed=seed,
                )


def _every_k(study: Study, architecture: str) -> tuple[int, ...]:
    names = block_names(architecture)
    if names is None:
        raise RobbenchError(
            f"transfers of {architecture!r}: expected k=(1, 2, …), since only the built network knows its blocks; "
            f"`robbench list {architecture}` prints them"
        )
    repeats = _PARAMETERLESS if study.protocol == "sound" else frozenset()
    return tuple(k for k, block in enumerate(reversed(names), 1) if block not in repeats)


def _recipe_for(recipe: Recipe | Mapping[str, Recipe], architecture: str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if architecture not in recipe:
        raise unknown("recipe for architecture", architecture, recipe)
    return recipe[architecture]
