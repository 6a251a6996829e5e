"""What a study will cost, before anything runs: passes of every stage, and seconds where the speed is known. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

from robbench.data.sizes import Sizes, parts, sizes, taken
from robbench.errors import unknown
from robbench.planning.work import Speed, Work, audit_work, final_work, retrained_share, search_work, training_work
from robbench.spec import Estimate, Model, Study
from robbench.stages import KINDS

_PRECISIONS = {"float32": "tf32", "bf16": "bf16"}
"""What training computes in, by its recipe's precision."""

NetworkKey = tuple[str, tuple[int, int, int], str]
"""What speed depends on: architecture, shape of an image, precision."""


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One stage of one model, and what it takes at most."""

    model: Model
    stage: str
    work: Work
    """All of it: updates and validation, or search, final test and audit."""
    bound: bool
    """Whether the stage may end earlier: early stopping, misclassified images, brackets that close."""
    network: NetworkKey | None
    """Its precision is bf16, float32, or tf32: float32 whose products a GPU makes in TF32, as in training."""

    @property
    def name(self) -> str:
        """``case.stage``: unique within a study."""
        return f"{self.model.id}.{self.stage}"

    def seconds(self, speed: Speed) -> float:
        """Time at this speed; the fewer blocks are retrained, the less an update takes."""
        work, share = self.work, retrained_share(self.model)
        update = speed.inference + share * max(0.0, speed.update - speed.inference)
        return work.inference * speed.inference + work.attack * speed.attack + work.update * update


def plan(study: Study, data: Path) -> tuple[PlannedStage, ...]:
    """Every stage of a study in the order in which pytest runs them: all of one kind, then all of the next.

    Kinds other than training and robustness are planned as no work.

    Args:
        study: whose stages they are.
        data: folder of the prepared data sets.

    Raises:
        RobbenchError: a dataset that is neither known by name nor a prepared file in ``data``.
    """
    models = study.models()
    found = {name: sizes(name, data) for name in dict.fromkeys(model.dataset.name for model in models)}
    planned = {"training": _training, "robustness": _robustness}
    return tuple(
        planned[kind](model, study.estimate, found[model.dataset.name]) if kind in planned else _nothing(model, kind)
        for kind in KINDS
        for model in models
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
    needed = {model.id for model in _ancestors(models[name])}
    return tuple(
        stage for stage in stages if stage.model.id == name or (stage.model.id in needed and stage.stage == "training")
    )


def _ancestors(model: Model) -> list[Model]:
    """The models whose training a model needs, directly or not."""
    return [found for parent in model.parents().values() for found in (parent, *_ancestors(parent))]


def _training(model: Model, estimate: Estimate, found: Sizes) -> PlannedStage:
    training, validation = parts(model.dataset, found.train)
    recipe = model.recipe
    return PlannedStage(
        model=model,
        stage="training",
        work=Work(inference=validation) if recipe is None else training_work(recipe, training, validation),
        bound=recipe is not None and recipe.early_stopping is not None,
        network=(model.architecture, found.shape, _PRECISIONS[recipe.precision] if recipe else "float32"),
    )


def _robustness(model: Model, estimate: Estimate, found: Sizes) -> PlannedStage:
    images = min(estimate.images, taken(model.dataset, model.dataset.test, found.test))
    return PlannedStage(
        model=model,
        stage="robustness",
        work=search_work(estimate, images) + final_work(estimate, images) + audit_work(estimate, images),
        bound=True,
        network=(model.architecture, found.shape, "float32"),
    )


def _nothing(model: Model, kind: str) -> PlannedStage:
    return PlannedStage(model=model, stage=kind, work=Work(), bound=False, network=None)


def lines(stages: Sequence[PlannedStage], speeds: Mapping[NetworkKey, Speed], done: Set[str]) -> list[str]:
    """The plan as a table of text, with totals of what is not done yet.

    Args:
        stages: of :func:`plan`.
        speeds: by architecture, image shape and precision; without one, a stage's time is left blank.
        done: names of the stages that the store has.
    """
    width = max(len(stage.name) for stage in stages)
    table = [f"{'stage':{width}}  {'forward':>15}  {'backward':>15}  {'time':>9}"]
    total, seconds = Work(), 0.0
    for stage in stages:
        work = stage.work
        speed = speeds.get(stage.network) if stage.network else None
        took = stage.seconds(speed) if speed else None
        mark = "≤ " if stage.bound else ""
        table.append(
            f"{stage.name:{width}}  {f'{mark}{work.forward:,}':>15}  "
            f"{f'{mark}{work.backward:,}':>15}  {_time(took):>9}{'  done' if stage.name in done else ''}"
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
