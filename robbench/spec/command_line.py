"""How options of the command line change a declared study: protocol, data, seeds, quick scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from robbench.errors import RobbenchError, require
from robbench.spec import Dataset, Protocol, Study
from robbench.spec.catalogue import DATASETS
from robbench.spec.recipes import with_protocol


def adapt(
    study: Study,
    *,
    protocol: Protocol | None = None,
    datasets: Mapping[str, str] | None = None,
    seeds: int | None = None,
    quick: bool = False,
) -> Study:
    """The study with these changes; its name says which of them change what the figures mean.

    Args:
        study: as declared.
        protocol: None: as declared.
        datasets: names of datasets to use in place of others; the study ignores names that it lacks.
        seeds: run seeds 0 … seeds − 1.
        quick: shrink to the quick scale.
    """
    if protocol is not None:
        study = with_protocol(study, protocol)
    found = {old: new for old, new in (datasets or {}).items() if old in names(study)}
    if found:
        changed = study.with_datasets(lambda dataset: _renamed(dataset, found.get(dataset.name, dataset.name)))
        study = replace(changed, name="-".join([study.name, *(re.sub(r"[^\w-]", "_", new) for new in found.values())]))
    if seeds is not None:
        require(seeds >= 1, "seeds", "an integer ≥ 1", seeds)
        study = replace(study, seeds=tuple(range(seeds)))
    return study.shrunk() if quick else study


def parse_datasets(texts: list[str]) -> dict[str, str]:
    """``NAME=OTHER`` texts as a mapping.

    Raises:
        RobbenchError: a text of another form, or a name given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not (old and equals and new) or "=" in new:
            raise RobbenchError(f"dataset replacement: expected NAME=OTHER (emnist=mydata), got {text!r}")
        if old in pairs:
            raise RobbenchError(f"dataset replacement: expected {old!r} once, got {old}={pairs[old]} and {text}")
        pairs[old] = new
    return pairs


def names(study: Study) -> set[str]:
    """Names of the study's datasets."""
    return {dataset.name for dataset in study.datasets}


def _renamed(dataset: Dataset, name: str) -> Dataset:
    """The same sizes and split of other data.

    A known dataset brings its own augmentation and statistics, where the study declares none. An unknown one is taken
    for a variant of the dataset that it replaces.
    """
    if name not in DATASETS:
        return replace(dataset, name=name)
    usual = Dataset(name=dataset.name)
    augmentation = None if dataset.augmentation == usual.augmentation else dataset.augmentation
    usually = (dataset.mean, dataset.std) == (usual.mean, usual.std)
    mean, std = (None, None) if usually else (dataset.mean, dataset.std)
    return replace(dataset, name=name, augmentation=augmentation, mean=mean, std=std)
