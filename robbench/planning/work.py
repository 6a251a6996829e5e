"""How many images pass through a network in each part of a stage, by its specification."""

from __future__ import annotations

import math
from dataclasses import dataclass

from robbench.estimation.sampling import (
    APGD_STEPS,
    APGD_TARGETS,
    FEWEST,
    QUARTILES,
    image_passes,
    looked_at,
    probe_passes,
    scan_steps,
)
from robbench.spec import Attack, Bounds, Estimate, Model, Recipe, Search
from robbench.spec.catalogue import block_names
from robbench.spec.searches import ATTACKS, parts, search_name

SEARCH_STEPS = {"fast": 110, "thorough": 385}
"""Steps for an image that a search takes on an adversarially trained network, about the most."""

STEPS = 100
"""Taken for those of a search or an attack that robbench does not know."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Images that pass through a network."""

    inference: int = 0
    """Forward only."""
    attack: int = 0
    """Forward, and backward to the pixels: one step of an attack."""
    update: int = 0
    """Forward, and backward to the weights that are trained."""
    rows: int = 0
    """Not images but linear functions of neurons, which CROWN takes backwards to the pixels."""

    @property
    def forward(self) -> int:
        """All forward passes, in images."""
        return self.inference + self.attack + self.update

    @property
    def backward(self) -> int:
        """All backward passes, in images, and linear functions that go backwards."""
        return self.attack + self.update + self.rows

    def __add__(self, other: Work) -> Work:
        return Work(
            inference=self.inference + other.inference,
            attack=self.attack + other.attack,
            update=self.update + other.update,
            rows=self.rows + other.rows,
        )

    def __mul__(self, times: int) -> Work:
        return Work(
            inference=self.inference * times,
            attack=self.attack * times,
            update=self.update * times,
            rows=self.rows * times,
        )


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per image of a network in one precision on one machine."""

    inference: float
    attack: float
    update: float
    row: float = 0.0
    """Of a linear function of CROWN; 0 where none is planned."""


def training_work(recipe: Recipe, training: int, validation: int) -> Work:
    """All epochs: attacked images and their update, clean and attacked validation images; no teacher's passes."""
    attack, objective = recipe.attack, recipe.objective
    update = training * objective.passes * (2 if recipe.awp else 1)
    if attack is None:
        return Work(update=update, inference=validation) * recipe.epochs
    checks = (recipe.validation_attack or attack).steps
    inference = training * objective.looks + 2 * validation
    epoch = Work(update=update, attack=training * attack.steps + validation * checks, inference=inference)
    return epoch * recipe.epochs


def search_work(estimate: Estimate, images: int) -> Work:
    """At most, by `reference`: every image right, every bracket halved to the end. By other searches, about the most."""
    return sum((_search_work(each, estimate, images) for each in parts(estimate.search)), Work())


def _search_work(search: str | Search, estimate: Estimate, images: int) -> Work:
    probes = math.ceil(math.log2(len(estimate.grid.values) + 1))
    if search == "reference":
        return Work(inference=images * (1 + probes), attack=images * probes * estimate.attack.steps)
    if isinstance(search, Attack):
        known = ATTACKS.get(search.name)
        calls = 1 if known is None or known.minimal else probes
        return Work(inference=images * (1 + calls), attack=images * calls * (search.steps or STEPS))
    return Work(inference=2 * images, attack=images * SEARCH_STEPS.get(search_name(search), STEPS))


def final_work(estimate: Estimate, images: int) -> Work:
    """Upper bound: assumes that every image is right and is attacked and judged."""
    attacks = estimate.final_test
    return Work(inference=images * len(attacks), attack=images * sum(attack.steps or STEPS for attack in attacks))


def audit_work(estimate: Estimate, images: int) -> Work:
    """Upper bound: assumes that every image is right and that search, APGD-T and Square take all their passes."""
    audit = estimate.audit
    if audit is None:
        return Work()
    search = search_work(estimate, images)
    passes, steps = search.forward + search.backward, scan_steps(estimate.search == "reference", estimate.attack.steps)
    looked = [looked_at(audit, images, passes, radii) for radii in range(len(QUARTILES) + 1)]
    # No more are scanned than are looked at, at no radius at least: so many pay for both with the whole share.
    affordable = int(audit.share * passes / (image_passes(0) + audit.radii * probe_passes(steps)))
    probes = audit.radii * min(looked[0], max(FEWEST, affordable))
    judged = max((image_passes(radii) - 2) * count for radii, count in enumerate(looked))  # the others give gradients
    square = looked[1] * (audit.square_queries + 3) if audit.square_queries else 0
    # It ranks the classes, looks at its last iterates, and is judged.
    apgd = Work(inference=2 + APGD_TARGETS, attack=APGD_TARGETS * APGD_STEPS) * min(images, audit.apgd_images)
    return apgd + Work(inference=judged + probes + square, attack=looked[0] + probes * (steps + 1))


def bound_work(bounds: Bounds, images: int, radii: int, classes: int, neurons: int) -> Work:
    """At most: in every round every neuron's sign is open, both ways, and every class, for about a forward pass each."""
    rounds = math.ceil(math.log(radii + 1, bounds.probes + 1))
    tries = images * (1 + rounds * bounds.probes)
    return Work(inference=tries * (classes - 1), rows=tries * 2 * neurons)


def retrained_share(model: Model) -> float:
    """Share of the blocks that a backward pass to the weights goes through: all, but for frozen ones in front."""
    names = block_names(model.architecture)
    if model.transfer is None or model.transfer.kept != "frozen" or names is None:
        return 1.0
    return model.transfer.k / len(names)
