"""Searches for p* beside the built-in ones: one's own, attacks of other libraries, and several searches together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from robbench.errors import require, unknown
from robbench.spec.base import Count, Expected, Radius, Spec

Norm = Literal["linf", "l2"]
"""How far a counterexample lies from its image: by its most changed pixel, or by the root of the sum of squares."""

Option = bool | int | float | str | None


@dataclass(frozen=True, kw_only=True)
class Known:
    """How an attack of another library is called; what it needs beyond that stands in ``options``."""

    function: str
    """What it is called there."""
    minimal: bool
    """Whether it looks for the nearest counterexample, or for one within a given radius."""
    steps: str
    """The option that says how long it goes on."""
    options: Mapping[str, Option]
    """Given to it unless the study says otherwise."""
    norms: tuple[Norm, ...] = ("linf", "l2")


ATTACKS = {
    "adv_lib:apgd": Known(
        function="apgd", minimal=False, steps="n_iter", options={"n_iter": 100, "loss_function": "ce"}
    ),
    "adv_lib:apgd_t": Known(function="apgd_targeted", minimal=False, steps="n_iter", options={"n_iter": 100}),
    "adv_lib:ddn": Known(
        function="ddn", minimal=True, steps="steps", options={"steps": 100, "levels": None}, norms=("l2",)
    ),
    "adv_lib:fab": Known(function="fab", minimal=True, steps="n_iter", options={"n_iter": 100}),
    "adv_lib:fmn": Known(function="fmn", minimal=True, steps="steps", options={"steps": 100}),
    "pyautoattack:square": Known(
        function="SquareAttack", minimal=False, steps="n_queries", options={"n_queries": 5000}
    ),
}
"""Attacks of adversarial-library and pyautoattack that need no code of one's own."""

LIBRARIES = {"adv_lib": "adv-lib", "pyautoattack": "pyautoattack"}
"""Their modules, and what the packages are called."""


class Search(Spec):
    """Base of one's own searches for p*: a child holds the settings, ``robbench.estimation.estimator`` the code."""

    @property
    def label(self) -> str:
        """Name in records and tables: the class in lower case."""
        return type(self).__name__.lower()


class Attack(Search):
    """An attack of another library, or one's own function, which :func:`attack` declares."""

    name: str
    options: tuple[tuple[str, Option], ...] = ()
    epsilon: Radius | None = None
    """Radius in pixel units, in a final test; None where the grid of an estimate gives it."""
    seed: Count = 0
    """Of the random numbers that it draws."""

    def __post_init__(self) -> None:
        if self.module in LIBRARIES and self.name not in ATTACKS:
            raise unknown("attack", self.name, ATTACKS)
        how = "<package.module>:<function> (your own), or one of " + ", ".join(ATTACKS)
        require(bool(re.fullmatch(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.name)), "attack", how, self.name)

    @property
    def module(self) -> str:
        """The module that it comes from."""
        return self.name.partition(":")[0]

    @property
    def label(self) -> str:
        """``adv_lib:fmn(steps=50)``."""
        given = dict(self.options) | ({"seed": self.seed} if self.seed else {})
        told = ", ".join(f"{name}={value}" for name, value in given.items())
        return f"{self.name}({told})" if told else self.name

    @property
    def steps(self) -> int | None:
        """How long it goes on; None where only its code can tell."""
        known = ATTACKS.get(self.name)
        steps = known and {**known.options, **dict(self.options)}[known.steps]
        return steps if isinstance(steps, int) else None


def attack(name: str, *, epsilon: float | None = None, seed: int = 0, **options: Option) -> Attack:
    """An attack of another library, or one's own function, for ``Estimate(search=…)`` or ``Estimate(final_test=…)``.

    Args:
        name: one of :data:`ATTACKS`, such as ``adv_lib:fmn``; or ``package.module:function``, called as
            ``function(network, images, labels, **options)`` where it looks for the nearest counterexamples, and as
            ``function(network, images, labels, epsilon, **options)`` where it looks for some within the radius of each
            image. Images are (B, C, H, W) floats in [0, 1], labels (B,) int64, ``epsilon`` (B,) floats in pixel units; it
            returns (B, C, H, W) images in [0, 1]. What it finds for an image must not depend on the others.
        epsilon: radius in pixel units, in a final test only.
        seed: of the random numbers that it draws.
        options: what else it is called with.

    Raises:
        RobbenchError: the name is none of these.
    """
    return Attack(name=name, epsilon=epsilon, seed=seed, options=tuple(sorted(options.items())))


BuiltIn = Literal["reference", "fast", "thorough"]


class Ensemble(Search):
    """Several searches, one after the other: p* of every image is the smallest that any of them found."""

    searches: Annotated[
        tuple[BuiltIn | Search, ...], Field(min_length=2), Expected("two searches or more, built-in or other")
    ]

    def __post_init__(self) -> None:
        names = [search_name(search) for search in self.searches]
        require(len({*names}) == len(names), "Ensemble searches", "each search once", names)

    @property
    def label(self) -> str:
        """``ensemble of fast and adv_lib:fmn``."""
        *names, last = map(search_name, self.searches)
        return f"ensemble of {', '.join(names)} and {last}"


def search_name(search: str | Search) -> str:
    """Name of a search in records and tables."""
    return search if isinstance(search, str) else search.label


def parts(search: str | Search) -> Iterator[str | Search]:
    """The searches that a search consists of; one that is no ensemble consists of itself."""
    if isinstance(search, Ensemble):
        for each in search.searches:
            yield from parts(each)
    else:
        yield search
