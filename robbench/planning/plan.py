"""What a study will cost, before anything runs: passes of every stage, and seconds where the speed is known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from robbench.bounds import BoundedNetwork
from robbench.data.sizes import Sizes, parts, sizes_of, taken
from robbench.errors import unknown
from robbench.models import build
from robbench.planning.work import (
    Speed,
    Work,
    audit_work,
    bound_work,
    final_work,
    retrained_share,
    search_work,
    training_work,
)
from robbench.spec import Model, Study
from robbench.spec.catalogue import DATASETS
from robbench.stages import Task, tasks_of
from robbench.stages.graph import with_needs

_PRECISIONS = {"float32": "tf32", "bf16": "bf16"}
"""What training computes in, by its recipe's precision."""

NetworkKey = tuple[str, tuple[int, int, int], str]
"""What speed depends on: architecture, shape of an image, precision (float32, tf32 or bf16)."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of one model, and what it takes at most."""

    model: Model
    stage: str
    work: Work
    bound: bool
    """Whether the stage may end earlier: early stopping, misclassified images."""
    network: NetworkKey | None
    verifying: float = 0.0
    """Seconds of a complete verifier at most, which are as long on every machine."""

    @property
    def name(self) -> str:
        """``case.stage``: unique within a study."""
        return f"{self.model.id}.{self.stage}"

    def seconds(self, speed: Speed) -> float:
        """Time at this speed; the fewer blocks are retrained, the less an update takes."""
        work, share = self.work, retrained_share(self.model)
        update = speed.inference + share * max(0.0, speed.update - speed.inference)
        passes = work.inference * speed.inference + work.attack * speed.attack + work.update * update
        return passes + work.rows * speed.row + self.verifying


def plan(study: Study, data: Path) -> tuple[PlannedStage, ...]:
    """Every stage of a study in order, unknown kinds as no work; a RobbenchError for a dataset that is not in ``data``."""
    found = {dataset.name: sizes_of(dataset, data) for dataset in study.datasets}
    planned = {"training": _training, "robustness": _robustness, "bounds": _bounds, "drift": _drift}
    return tuple(planned.get(task.kind, _nothing)(task, found[task.model.dataset.name]) for task in tasks_of(study))


def of_item(stages: tuple[PlannedStage, ...], study: Study, item: str) -> tuple[PlannedStage, ...]:
    """The stages that an item of a suite file (``test_robustness[cnn7-emnist-TL3]``) names, and what they need."""
    name = item.partition("[")[2].removesuffix("]")
    if not name:
        return stages
    wanted = [task for task in tasks_of(study) if name in (task.model.id, f"{task.model.id}-{task.label}")]
    if not wanted:
        raise unknown("model of the suite", name, [model.id for model in study.models()])
    needed = {task.name for task in with_needs(wanted)}
    return tuple(stage for stage in stages if stage.name in needed)


def _training(task: Task, found: Sizes) -> PlannedStage:
    model, recipe = task.model, task.model.recipe
    training, validation = parts(model.dataset, found.train)
    return PlannedStage(
        model=model,
        stage="training",
        work=Work(inference=validation) if recipe is None else training_work(recipe, training, validation),
        bound=recipe is not None and recipe.early_stopping is not None,
        network=(model.architecture, found.shape, _PRECISIONS[recipe.precision] if recipe else "float32"),
    )


def _robustness(task: Task, found: Sizes) -> PlannedStage:
    model, estimate = task.model, task.spec
    images = min(estimate.images, taken(model.dataset, model.dataset.test, found.test))
    return PlannedStage(
        model=model,
        stage=task.stage,
        work=search_work(estimate, images) + final_work(estimate, images) + audit_work(estimate, images),
        bound=True,
        network=(model.architecture, found.shape, "float32"),
    )


def _bounds(task: Task, found: Sizes) -> PlannedStage:
    model, bounds, estimate = task.model, task.spec.bounds, task.spec.estimate
    images = min(bounds.images, estimate.images, taken(model.dataset, model.dataset.test, found.test))
    facts = DATASETS.get(model.dataset.name)
    classes = facts.classes if facts else 10  # a file's header does not say: it matters little beside the neurons
    network = build(model.architecture, classes=classes, shape=found.shape)
    neurons = BoundedNetwork(network.eval()).neurons(found.shape) if bounds.method == "crown" else 0
    verifier = bounds.verifier
    return PlannedStage(
        model=model,
        stage=task.stage,
        work=bound_work(bounds, images, len(estimate.grid.values), classes, neurons),
        bound=True,
        network=(model.architecture, found.shape, "float32"),
        verifying=min(images, verifier.images) * verifier.queries * verifier.seconds if verifier else 0.0,
    )


def _drift(task: Task, found: Sizes) -> PlannedStage:
    model, drift = task.model, task.spec
    images = min(drift.images, parts(model.dataset, found.train)[1])
    return PlannedStage(
        model=model,
        stage=task.stage,
        work=Work(inference=2 * images, attack=images * drift.attack.steps),
        bound=False,
        network=(model.architecture, found.shape, "float32"),
    )


def _nothing(task: Task, found: Sizes) -> PlannedStage:
    return PlannedStage(model=task.model, stage=task.stage, work=Work(), bound=False, network=None)


def lines(stages: Sequence[PlannedStage], speeds: Mapping[NetworkKey, Speed], done: Set[str]) -> list[str]:
    """The plan as a table, with totals of the stages whose names are not in ``done``; blank where a speed is unknown."""
    width = max(len(stage.name) for stage in stages)
    table = [f"{'stage':{width}}  {'forward':>15}  {'backward':>15}  {'time':>9}"]
    total, seconds = Work(), 0.0
    for stage in stages:
        work = stage.work
        speed = speeds.get(stage.network) if stage.network else None
        took = stage.seconds(speed) if speed else None
        mark, most = ("≤ " if each else "" for each in (stage.bound, stage.verifying and took is not None))
        table.append(
            f"{stage.name:{width}}  {f'{mark}{work.forward:,}':>15}  "
            f"{f'{mark}{work.backward:,}':>15}  {most + _time(took):>9}{'  done' if stage.name in done else ''}"
        )
        if stage.name not in done:
            total, seconds = total + work, seconds + (took or 0.0)
    ready = sum(stage.name in done for stage in stages)
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
