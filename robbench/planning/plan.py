"""What a study will cost, before anything runs: passes of every stage, and seconds where the speed is known. No torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from robbench.data.sizes import Sizes, images_tested, parts, sizes
from robbench.errors import unknown
from robbench.estimation.sampling import FEWEST, QUARTILES, image_passes, looked_at, probe_passes, scan_steps
from robbench.spec import Estimate, Model, Recipe, Study
from robbench.spec.catalogue import block_names


@dataclass(frozen=True, kw_only=True)
class Work:
    """Images that pass through a network, by what for."""

    inference: int = 0
    """Forward only."""
    attack: int = 0
    """Forward, and backward to the pixels: one step of an attack."""
    update: int = 0
    """Forward, and backward to the weights that are trained."""

    @property
    def forward(self) -> int:
        """All forward passes, in images."""
        return self.inference + self.attack + self.update

    @property
    def backward(self) -> int:
        """All backward passes, in images."""
        return self.attack + self.update

    def __add__(self, other: Work) -> Work:
        return Work(
            inference=self.inference + other.inference,
            attack=self.attack + other.attack,
            update=self.update + other.update,
        )

    def __mul__(self, times: int) -> Work:
        return Work(inference=self.inference * times, attack=self.attack * times, update=self.update * times)


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds per image of a network in one precision on one machine."""

    inference: float
    attack: float
    update: float


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of one model, and what it takes at most."""

    model: Model
    stage: str
    digest: str
    work: Work
    """As recorded: updates and validation, or search and confirmation."""
    final_test: Work = Work()
    """What a robustness stage's final test adds."""
    audit: Work = Work()
    """What its audit adds, at most."""
    bound: bool
    """Whether the stage may end earlier: early stopping, misclassified images, brackets that close."""
    precision: str
    """bf16, float32, or tf32: float32 whose products a GPU makes in TF32, as in training."""
    images: tuple[int, int, int]
    """Shape of one image."""

    @property
    def total(self) -> Work:
        """All of it."""
        return self.work + self.final_test + self.audit

    @property
    def network(self) -> tuple[str, tuple[int, int, int], str]:
        """What its speed depends on: architecture, shape of the images, precision."""
        return self.model.architecture, self.images, self.precision

    def seconds(self, speed: Speed) -> float:
        """Time at this speed; updates of retrained blocks count the more, the more blocks are retrained."""
        work, share = self.total, retrained_share(self.model)
        update = speed.inference + share * max(0.0, speed.update - speed.inference)
        return work.inference * speed.inference + work.attack * speed.attack + work.update * update


def plan(study: Study, data: Path) -> tuple[PlannedStage, ...]:
    """Every stage of a study in the order in which pytest runs them: all trainings, then all estimates.

    Raises:
        RobbenchError: a dataset that is neither known by name nor a prepared file in ``data``.
    """
    models = study.models()
    found = {name: sizes(name, data) for name in dict.fromkeys(model.dataset.name for model in models)}
    return tuple(
        planned
        for stage in (_training, _robustness)
        for planned in (stage(model, study.estimate, found[model.dataset.name]) for model in models)
    )


def of_item(stages: tuple[PlannedStage, ...], item: str) -> tuple[PlannedStage, ...]:
    """The stages of one item of a suite file (``test_robustness[cnn7-emnist-TL3]``), and of the models that it needs.

    Raises:
        RobbenchError: the item's brackets hold no model of the study.
    """
    name = item.partition("[")[2].removesuffix("]")
    if not name:
        return stages
    models = {stage.model.id: stage.model for stage in stages}
    if name not in models:
        raise unknown("model of the suite", name, models)
    needed, model = {name}, models[name]
    while model.source is not None:
        model = model.source
        needed.add(model.id)
    return tuple(
        stage for stage in stages if stage.model.id == name or (stage.model.id in needed and stage.stage == "training")
    )


FAST_STEPS = 90
"""Passes of the ``fast`` search for an image of an adversarially trained network; a conventional one takes half."""


def training_work(recipe: Recipe, training: int, validation: int) -> Work:
    """All epochs: attacked images and their update, clean and attacked validation images."""
    attack = recipe.attack
    if attack is None:
        return Work(update=training, inference=validation) * recipe.epochs
    checks = (recipe.validation_attack or attack).steps
    epoch = Work(update=training, attack=training * attack.steps + validation * checks, inference=2 * validation)
    return epoch * recipe.epochs


def search_work(estimate: Estimate, images: int) -> Work:
    """At most: every image right, and every bracket halved to the end; each probe is attacked and confirmed.

    The ``fast`` search has no useful bound: it is counted with the passes of a robust network.
    """
    if estimate.search == "fast":
        return Work(inference=2 * images, attack=images * FAST_STEPS)
    probes = math.ceil(math.log2(len(estimate.grid.values) + 1))
    return Work(inference=images * (1 + probes), attack=images * probes * estimate.attack.steps)


def final_work(estimate: Estimate, images: int) -> Work:
    """At most: every image right, attacked and judged."""
    attacks = estimate.final_test
    return Work(inference=images * len(attacks), attack=images * sum(attack.steps for attack in attacks))


def audit_work(estimate: Estimate, images: int) -> Work:
    """At most: every image right, the search with all its passes, and whichever number of radii costs most.

    Square, where it is asked for, is counted with all its queries for every image, and three passes around them.
    """
    audit = estimate.audit
    if audit is None:
        return Work()
    search = search_work(estimate, images)
    passes, steps = search.forward + search.backward, scan_steps(estimate.search_name, estimate.attack.steps)
    looked = [looked_at(audit, images, passes, radii) for radii in range(len(QUARTILES) + 1)]
    # No more are scanned than are looked at, at no radius at least: so many pay for both with the whole share.
    affordable = int(audit.share * passes / (image_passes(0) + audit.radii * probe_passes(steps)))
    probes = audit.radii * min(looked[0], max(FEWEST, affordable))
    judged = max((image_passes(radii) - 2) * count for radii, count in enumerate(looked))  # the others give gradients
    square = looked[1] * (audit.square_queries + 3) if audit.square_queries else 0
    return Work(inference=judged + probes + square, attack=looked[0] + probes * (steps + 1))


def retrained_share(model: Model) -> float:
    """Share of the blocks that a backward pass to the weights goes through: all, but for frozen ones in front."""
    names = block_names(model.architecture)
    if model.transfer is None or model.transfer.kept != "frozen" or names is None:
        return 1.0
    return model.transfer.k / len(names)


_PRECISIONS = {"float32": "tf32", "bf16": "bf16"}
"""What training computes in, by its recipe's precision."""


def _training(model: Model, estimate: Estimate, found: Sizes) -> PlannedStage:
    training, validation = parts(model.dataset, found.train)
    recipe = model.recipe
    return PlannedStage(
        model=model,
        stage="training",
        digest=model.digest,
        work=Work(inference=validation) if recipe is None else training_work(recipe, training, validation),
        bound=recipe is not None and recipe.early_stopping is not None,
        precision=_PRECISIONS[recipe.precision] if recipe else "float32",
        images=found.shape,
    )


def _robustness(model: Model, estimate: Estimate, found: Sizes) -> PlannedStage:
    images = min(estimate.images, images_tested(model.dataset, found.test))
    return PlannedStage(
        model=model,
        stage="robustness",
        digest=model.estimate_digest(estimate),
        work=search_work(estimate, images),
        final_test=final_work(estimate, images),
        audit=audit_work(estimate, images),
        bound=True,
        precision="float32",
        images=found.shape,
    )


def lines(
    stages: tuple[PlannedStage, ...], speeds: Mapping[tuple[str, tuple[int, int, int], str], Speed], done: set[str]
) -> list[str]:
    """The plan as a table of text, with totals of what is not done yet.

    Args:
        stages: of :func:`plan`.
        speeds: by architecture, image shape and precision; without one, a stage's time is left blank.
        done: digests of the stages that the store has.
    """
    width = max(len(f"{stage.model.id}.{stage.stage}") for stage in stages)
    table = [f"{'stage':{width}}  {'forward':>15}  {'backward':>15}  {'time':>9}"]
    total, seconds = Work(), 0.0
    for stage in stages:
        work = stage.total
        speed = speeds.get(stage.network)
        took = stage.seconds(speed) if speed else None
        mark = "≤ " if stage.bound else ""
        table.append(
            f"{f'{stage.model.id}.{stage.stage}':{width}}  {f'{mark}{work.forward:,}':>15}  "
            f"{f'{mark}{work.backward:,}':>15}  {_time(took):>9}{'  done' if stage.digest in done else ''}"
        )
        if stage.digest not in done:
            total, seconds = total + work, seconds + (took or 0.0)
    ready = sum(stage.digest in done for stage in stages)
    table.append(
        f"{f'{len(stages) - ready} stages to run, {ready} done':{width}}  {total.forward:>15,}  {total.backward:>15,}  "
        f"{_time(seconds if speeds else None):>9}"
    )
    return table


def _time(seconds: float | None) -> str:
    if seconds is None:
        return ""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
