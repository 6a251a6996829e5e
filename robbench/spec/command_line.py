"""How options of the command line change a declared study: protocol, data, seeds, quick scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePath
from typing import Any

from robbench.errors import RobbenchError, require
from robbench.spec import PGD, Attack, Dataset, Ensemble, Estimate, Protocol, Quick, Recipe, Search, Study
from robbench.spec.catalogue import DATASETS
from robbench.spec.recipes import with_protocol
from robbench.spec.searches import ATTACKS, BuiltIn

_PICTURES = re.compile(r"(folder|hub):.")

SQUARE_QUERIES = 12
"""Of the audit's Square for each image at the quick scale, at most."""


def adapt(
    study: Study,
    *,
    protocol: Protocol | None = None,
    datasets: Mapping[str, str] | None = None,
    seeds: int | None = None,
    quick: bool = False,
) -> Study:
    """The study with these changes; its name says which of them change what the figures mean.

    ``datasets`` names others to use in place of its own, or where pictures lie (``folder:PATH``, ``hub:OWNER/NAME``);
    ``seeds`` is their number, from 0.
    """
    if protocol is not None:
        study = with_protocol(study, protocol)
    found = {old: new for old, new in (datasets or {}).items() if old in names(study)}
    if found:
        changed = study.with_datasets(lambda dataset: _renamed(dataset, found.get(dataset.name, dataset.name)))
        used = (_name_of(new) for new in found.values())
        study = replace(changed, name="-".join([study.name, *(re.sub(r"[^\w-]", "_", name) for name in used)]))
    if seeds is not None:
        require(seeds >= 1, "seeds", "an integer ≥ 1", seeds)
        study = replace(study, seeds=tuple(range(seeds)))
    return shrink(study) if quick else study


def parse_datasets(option: str, texts: list[str]) -> dict[str, str]:
    """``NAME=OTHER`` texts as a mapping.

    Raises:
        RobbenchError: a text of another form, or a name given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        old, _, new = text.partition("=")
        good = old and new and ("=" not in new or _PICTURES.match(new)) and old not in pairs
        require(bool(good), option, "NAME=OTHER (emnist=mydata, emnist=folder:PATH), each name once", text)
        pairs[old] = new
    return pairs


def names(study: Study) -> set[str]:
    """Names of the study's datasets."""
    return {dataset.name for dataset in study.datasets}


def _name_of(other: str) -> str:
    """The name of what takes a dataset's place: of pictures, the last part of their path."""
    if not _PICTURES.match(other):
        return other
    return re.sub(r"[^\w.+-]", "_", PurePath(other.partition(":")[2]).name).lstrip(".+-") or "pictures"


def pictures(text: str, **options: Any) -> Dataset | None:
    """The pictures that ``folder:PATH`` or ``hub:OWNER/NAME`` names; None of any other text."""
    kind, _, where = text.partition(":")
    source: dict[str, Any] = {kind: where}
    return Dataset(name=_name_of(text), **source, **options) if _PICTURES.match(text) else None


def _in_place(dataset: Dataset, other: str) -> Dataset:
    """The same numbers and split of pictures, which are brought to the size of the dataset's images."""
    kind, _, where = other.partition(":")
    facts = DATASETS.get(dataset.name)
    if dataset.size is None and facts is None:
        raise RobbenchError(
            f"{dataset.name}={other}: expected a data set of known size in its place, got {dataset.name!r}"
        )
    brought = None if facts is None or dataset.size is not None else facts.shape
    return replace(
        dataset,
        name=_name_of(other),
        folder=where if kind == "folder" else None,
        hub=where if kind == "hub" else None,
        size=brought[1] if brought else dataset.size,
        channels=dataset.channels if brought is None else 1 if brought[0] == 1 else 3,
        orientation="upright",
    )


def _renamed(dataset: Dataset, name: str) -> Dataset:
    """The same sizes and split of other data; only a known dataset brings its usual augmentation and statistics."""
    if _PICTURES.match(name):
        return _in_place(dataset, name)
    if name == dataset.name:
        return dataset
    if name not in DATASETS:
        return replace(dataset, name=name, folder=None, hub=None)
    if dataset.size is not None:  # nothing that pictures are brought to applies to it
        kept = {each: getattr(dataset, each) for each in ("train", "test", "validation", "split", "seed")}
        return Dataset(name=name, **kept)
    usual = Dataset(name=dataset.name)
    augmentation = None if dataset.augmentation == usual.augmentation else dataset.augmentation
    usually = (dataset.mean, dataset.std) == (usual.mean, usual.std)
    mean, std = (None, None) if usually else (dataset.mean, dataset.std)
    return replace(dataset, name=name, augmentation=augmentation, mean=mean, std=std)


def shrink(study: Study) -> Study:
    """The study at its quick scale: sizes shrink, while radii, optimisers and models stay."""
    quick = study.quick
    small = study.with_recipes(lambda recipe: _recipe(recipe, quick)).with_datasets(lambda data: _dataset(data, quick))
    also = tuple(replace(each, estimate=_estimate(each.estimate, quick)) for each in study.also)
    return replace(small, name=f"{study.name}-quick", estimate=_estimate(study.estimate, quick), also=also)


def _attack(attack: PGD, quick: Quick) -> PGD:
    return attack if attack.steps <= quick.attack_steps else replace(attack, steps=quick.attack_steps, step_size=None)


def _other(attack: Attack, quick: Quick) -> Attack:
    if attack.steps is None or attack.steps <= quick.attack_steps:
        return attack
    fewer = dict(attack.options) | {ATTACKS[attack.name].steps: quick.attack_steps}
    return replace(attack, options=tuple(sorted(fewer.items())))


def _search(search: BuiltIn | Search, quick: Quick) -> BuiltIn | Search:
    if isinstance(search, Ensemble):
        return replace(search, searches=tuple(_search(each, quick) for each in search.searches))
    return _other(search, quick) if isinstance(search, Attack) else search


def _recipe(recipe: Recipe, quick: Quick) -> Recipe:
    return replace(
        recipe,
        epochs=min(recipe.epochs, quick.epochs),
        batch_size=min(recipe.batch_size, max(2, quick.train // 4)),
        ramp_epochs=min(recipe.ramp_epochs, quick.epochs / 2),
        attack=recipe.attack and _attack(recipe.attack, quick),
        validation_attack=recipe.validation_attack and _attack(recipe.validation_attack, quick),
    )


def _dataset(dataset: Dataset, quick: Quick) -> Dataset:
    train, test = dataset.train or quick.train, dataset.test or quick.test
    return replace(dataset, train=min(train, quick.train), test=min(test, quick.test))


def _estimate(estimate: Estimate, quick: Quick) -> Estimate:
    audit = estimate.audit
    return replace(
        estimate,
        attack=_attack(estimate.attack, quick),
        images=min(estimate.images, quick.images),
        search=_search(estimate.search, quick),
        final_test=tuple(
            dict.fromkeys(
                _attack(each, quick) if isinstance(each, PGD) else _other(each, quick) for each in estimate.final_test
            )
        ),
        audit=audit and replace(audit, square_queries=min(audit.square_queries, SQUARE_QUERIES)),
    )
