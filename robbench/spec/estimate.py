"""How robustness is measured: the grid of radii, the search, fixed attacks, and the audit."""

from __future__ import annotations

import math
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from robbench.errors import require
from robbench.spec.base import Count, Expected, PositiveInt, Radius, Share, Spec, within
from robbench.spec.training import PGD


class EpsilonGrid(Spec):
    """Radii 0, step, 2·step, … up to ``stop`` in pixel units."""

    stop: Radius
    step: Radius

    def __post_init__(self) -> None:
        require(self.stop >= self.step, "EpsilonGrid stop", "a radius ≥ one step", self.stop)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The grid's radii, ascending, beginning with 0."""
        count = math.floor(self.stop / self.step + 1e-9) + 1
        return tuple(round(i * self.step, 10) for i in range(count))


class Audit(Spec):
    """A look at whether the attack can be trusted, on a seeded sample of the correctly classified images."""

    images: PositiveInt = 100
    """At most this many are looked at."""
    share: Share = 0.1
    """Of the search's passes that the audit may take, without APGD-T and Square."""
    radii: Annotated[int, Field(ge=2), Expected("an integer ≥ 2 (one below p*, one above)")] = 8
    """At most this many for each scanned image, half of them below its p*."""
    apgd_images: Count = 50
    """At most this many are attacked by APGD-T one grid step below their p*. 0: none."""
    square_queries: Count = 0
    """Of Square, an attack without gradients, for each image; needs torchattacks. 0: it is not run."""
    seed: Count = 0


class Search(Spec):
    """Base of one's own searches for p*: a child holds the settings, ``robbench.estimation.estimator`` the code."""


class Estimate(Spec):
    """How robustness is measured."""

    grid: EpsilonGrid
    attack: PGD
    images: PositiveInt = 10_000
    """At most this many test images, drawn at random: others for every seed of the study, the same for its models."""
    search: Literal["reference", "fast", "thorough"] | Search = "fast"
    """A shrinking ball, also with more starts (thorough); the published binary search (reference); or one's own."""
    seed: Count = 0
    final_test: tuple[PGD, ...] = ()
    """Attacks at fixed radii on the same images; one step of the whole radius is FGSM.

    A random start is drawn for each image by its number, so that its batch changes nothing.
    """
    audit: Audit | None = Audit()
    """None: it is not looked at whether gradients are masked."""

    def __post_init__(self) -> None:
        attack, on_image_alone = self.attack, "False (the result must depend on the image alone, not on its batch)"
        within(attack.box, "Estimate grid stop", self.grid.stop)
        require(attack.epsilon is None, "Estimate attack epsilon", "none (the grid gives it)", attack.epsilon)
        require(attack.step_size is None, "Estimate attack step_size", "none (ε ÷ steps)", attack.step_size)
        require(not attack.random_start, "Estimate attack random_start", on_image_alone, True)
        for fixed in self.final_test:
            require(fixed.epsilon is not None, "Estimate final_test epsilon", "a radius", fixed.epsilon)
        distinct = len(set(self.final_test)) == len(self.final_test)
        require(distinct, "Estimate final_test", "each attack once", self.final_test)

    @property
    def search_name(self) -> str:
        """Name of the search in records and tables: of one's own, the class in lower case."""
        return self.search if isinstance(self.search, str) else type(self.search).__name__.lower()
