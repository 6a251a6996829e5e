"""How robustness is measured: the grid of radii, the search, fixed attacks, and the audit."""

from __future__ import annotations

import math
import re
from dataclasses import field
from functools import cached_property
from typing import Annotated

from pydantic import Field

from robbench.errors import require
from robbench.spec.base import UNUSUAL, Count, Expected, PositiveInt, Radius, Share, Spec, within
from robbench.spec.searches import ATTACKS, Attack, BuiltIn, Norm, Search, parts, search_name
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
    """Of Square, an attack without gradients, for each image; needs the extra ``audit``. 0: it is not run."""
    seed: Count = 0


class Estimate(Spec):
    """How robustness is measured."""

    grid: EpsilonGrid
    attack: PGD
    images: PositiveInt = 10_000
    """At most this many test images, drawn at random: others for every seed of the study, the same for its models."""
    search: BuiltIn | Search = "fast"
    """A shrinking ball, also with more starts (thorough); the published binary search (reference); another library's
    attack or one's own function (:func:`attack`); several together (:class:`Ensemble`); or one's own class."""
    seed: Count = 0
    final_test: tuple[PGD | Attack, ...] = ()
    """Attacks at fixed radii on the same images; one step of the whole radius is FGSM.

    A random start is drawn for each image by its number, so that its batch changes nothing.
    """
    audit: Audit | None = Audit()
    """None: it is not looked at whether gradients are masked."""
    norm: Norm = field(default="linf", metadata=UNUSUAL)
    """Of the perturbations. In L2 there is no ``reference`` search, no PGD in the final test, and no audit."""

    def __post_init__(self) -> None:
        attack, on_image_alone = self.attack, "False (the result must depend on the image alone, not on its batch)"
        if self.norm == "linf":
            within(attack.box, "Estimate grid stop", self.grid.stop)
        require(attack.epsilon is None, "Estimate attack epsilon", "none (the grid gives it)", attack.epsilon)
        require(attack.step_size is None, "Estimate attack step_size", "none (ε ÷ steps)", attack.step_size)
        require(not attack.random_start, "Estimate attack random_start", on_image_alone, True)
        for fixed in self.final_test:
            require(fixed.epsilon is not None, "Estimate final_test epsilon", "a radius", fixed.epsilon)
        distinct = len(set(self.final_test)) == len(self.final_test)
        require(distinct, "Estimate final_test", "each attack once", self.final_test)
        searches = [*parts(self.search)]
        for search in searches:
            radius = search.epsilon if isinstance(search, Attack) else None
            require(radius is None, "Estimate search epsilon", "none (the grid gives it)", radius)
        for each in (*searches, *self.final_test):
            if isinstance(each, Attack) and each.name in ATTACKS:
                norms = ATTACKS[each.name].norms
                require(self.norm in norms, "Estimate norm", f"{' or '.join(norms)} with {each.name}", self.norm)
            elif self.norm == "l2":
                require(
                    each != "reference", "Estimate search", "another one with norm l2 (it is published in linf)", each
                )
                require(not isinstance(each, PGD), "Estimate final_test", "other attacks with norm l2", each)
        audited = self.norm == "l2" and self.audit is not None
        require(not audited, "Estimate audit", "None with norm l2 (the audit attacks in linf)", self.audit)

    @property
    def search_name(self) -> str:
        """Name of the search in records and tables."""
        return search_name(self.search)

    @property
    def search_label(self) -> str:
        """The search's name as a part of the names of stages and files: ``adv_lib-fmn-steps=50``."""
        return re.sub(r"[^\w.=]+", "-", self.search_name).strip("-")
