"""How options of the command line change a declared study: protocol, data, seeds, quick scale."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from robbench.errors import require
from robbench.spec import Dataset, Protocol, Study
from robbench.spec.catalogue import DATASETS
from robbench.spec.quick import shrink
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

    ``datasets`` names others to use in place of its own; ``seeds`` is their number, from 0.
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
    return shrink(study) if quick else study


def parse_datasets(option: str, texts: list[str]) -> dict[str, str]:
    """``NAME=OTHER`` texts as a mapping.

    Raises:
        RobbenchError: a text of another form, or a name given twice.
    """
    pairs: dict[str, str] = {}
    for text in texts:
        old, _, new = text.partition("=")
        good = old and new and "=" not in new and old not in pairs
        require(bool(good), option, "NAME=OTHER (emnist=mydata), each name once", text)
        pairs[old] = new
    return pairs


def names(study: Study) -> set[str]:
    """Names of the study's datasets."""
    return {dataset.name for dataset in study.datasets}


def _renamed(dataset: Dataset, name: str) -> Dataset:
    """The same sizes and split of other data; only a known dataset brings its usual augmentation and statistics."""
    if name not in DATASETS:
        return replace(dataset, name=name)
    usual = Dataset(name=dataset.name)
    augmentation = None if dataset.augmentation == usual.augmentation else dataset.augmentation
    usually = (dataset.mean, dataset.std) == (usual.mean, usual.std)
    mean, std = (None, None) if usually else (dataset.mean, dataset.std)
    return replace(dataset, name=name, augmentation=augmentation, mean=mean, std=std)
