"""Which tensors of a file belong to a network: published names, prefixes, several copies, normalisation."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from robbench.errors import RobbenchError
from robbench.models.layouts import UNUSED, layouts
from robbench.models.network import Network

Values = tuple[float, ...]

_PAIRS = {"mean": "std", "mu": "sigma", "new_mean": "new_std"}
"""Names of the two tensors of an input normalisation; the last are those of MadryLab's robustness."""

_SHOWN = 4


@dataclass(frozen=True)
class Normalisation:
    """Mean and std of a file's own input normalisation."""

    mean: Values
    std: Values
    names: tuple[str, str]
    """In the file."""


@dataclass(frozen=True)
class Found:
    """What a file holds for a network."""

    tensors: dict[str, Tensor]
    """By robbench's names; unexpected ones by their own."""
    names: dict[str, str]
    """From robbench's names to the file's."""
    normalisations: tuple[Normalisation, ...]
    """All that differ."""
    left_out: tuple[str, ...]
    """Names of the file's other tensors."""
    prefix: str = ""
    """What the file puts in front of all names."""
    copies: tuple[str, ...] = ()
    """Prefixes of other networks in the file that fit, too."""

    @property
    def said(self) -> str:
        """Where in the file the weights were found, for notes."""
        where = f"read from {self.prefix!r} in the file" if self.prefix else "read as they are named in the file"
        others = f", which also holds {', '.join(map(repr, self.copies))}" if self.copies else ""
        return where + others


def find_weights(network: Network, tensors: Mapping[str, Tensor], part: str | None = None) -> Found:
    """The tensors that belong to a network, under whatever prefix and by whichever known layout of names.

    Any prefix is taken off under which all of the network's tensors are: ``module.``, ``model.``, ``_orig_mod.``, and what
    else wrappers and nested dicts add. Of several such networks in one file, ``part`` chooses by a word of the prefix; else
    an averaged copy (EMA) is taken; else copies that are all equal count as one. Where none is whole, the nearest is given.

    Raises:
        RobbenchError: several networks fit and differ, or none is under ``part``.
    """
    own = network.body.state_dict()
    best: tuple[int, str, dict[str, str]] = 0, "", {}
    whole: dict[str, dict[str, str]] = {}
    for names in layouts(network.architecture, own):
        needed = {name for key, name in names.items() if not UNUSED.search(key)}
        for prefix, count in _prefixes(needed, tensors).items():
            if part is not None and part not in _words(prefix):
                continue
            if count == len(needed):
                whole.setdefault(prefix, names)
            best = max(best, (count, prefix, names), key=lambda each: each[0])
    prefix = _choose(whole, tensors) if whole else best[1]
    names = whole.get(prefix, best[2])
    if part is not None and not names:
        raise RobbenchError(f"expected names that contain {part!r}, got {_some([*tensors])}")
    taken = {key: prefix + name for key, name in names.items() if prefix + name in tensors}
    normalisations, paired = _normalisations(tensors, {*taken.values()}, network.shape[0])
    used = {*taken.values(), *paired}
    rest = [name for name in tensors if name not in used]
    copies = tuple(other for other in whole if other != prefix)
    unexpected = {name for name in rest if _beside(name, prefix, copies) and tensors[name].numel() > 1}
    given = {key: tensors[name] for key, name in taken.items()}
    counts = {key: value for key, value in own.items() if UNUSED.search(key) and key not in given}
    return Found(
        tensors={**given, **counts, **{name.removeprefix(prefix): tensors[name] for name in unexpected}},
        names=taken,
        normalisations=normalisations,
        left_out=tuple(name for name in rest if name not in unexpected),
        prefix=prefix,
        copies=copies,
    )


def _prefixes(names: set[str], tensors: Mapping[str, Tensor]) -> Counter[str]:
    """How many of the names there are under each prefix."""
    counts: Counter[str] = Counter()
    for key in tensors:
        for at in (0, *(found.end() for found in re.finditer(r"[./]", key))):
            if key[at:] in names:
                counts[key[:at]] += 1
    return counts


def _words(name: str) -> list[str]:
    return re.split(r"[./]", name)


def _averaged(prefix: str) -> bool:
    return re.search(r"(^|[._/])(ema|averaged|swa)([._/]|$)", prefix.lower()) is not None


def _choose(whole: Mapping[str, dict[str, str]], tensors: Mapping[str, Tensor]) -> str:
    """The prefix of the network to take, of those that are whole."""
    prefixes = [prefix for prefix in whole if _averaged(prefix)] or [*whole]
    first, *others = sorted(prefixes, key=len)
    for other in others:
        pairs = ((first + whole[first][key], other + whole[other][key]) for key in whole[first])
        if not all(torch.equal(tensors[a], tensors[b]) for a, b in pairs if a in tensors and b in tensors):
            shown = ", ".join(map(repr, sorted(prefixes)))
            raise RobbenchError(f"it holds several networks that fit, {shown}; name a word of one with part=")
    return first


def _beside(name: str, prefix: str, copies: Sequence[str]) -> bool:
    """Whether a tensor stands among those of the network, so that it should be one of them."""
    same = name.startswith(prefix) and "/" not in name.removeprefix(prefix)
    return same and not UNUSED.search(name) and not any(copy and name.startswith(copy) for copy in copies)


def _normalisations(
    tensors: Mapping[str, Tensor], taken: set[str], channels: int
) -> tuple[tuple[Normalisation, ...], set[str]]:
    """Pairs of mean and std for 1 or ``channels`` channels that are no part of the network, equal pairs once; all names."""
    found: dict[tuple[Values, Values], Normalisation] = {}
    paired: set[str] = set()
    free = [name for name in tensors if name not in taken]
    for name in free:
        parent, last = name[: len(name) - len(_words(name)[-1])], _words(name)[-1]
        other = f"{parent}{_PAIRS.get(last)}"
        if other not in tensors or other in taken:
            continue
        mean, std = (tuple(each.flatten().tolist()) for each in (tensors[name], tensors[other]))
        if len(mean) == len(std) and len(mean) in (1, channels) and all(0 < value < float("inf") for value in std):
            found.setdefault((mean, std), Normalisation(mean, std, (name, other)))
            paired |= {name, other}
    return tuple(found.values()), paired


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if names[_SHOWN:] else "")
