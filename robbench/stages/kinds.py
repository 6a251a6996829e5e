"""The kinds of stages, as data: a new kind is one more entry of ``KINDS``. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from robbench.record import RESULTS, FeatureDrift, LowerBounds, Robustness, Struct, Training
from robbench.spec import Bounded, Drift, Estimate, Model, Study
from robbench.spec.own_code import remember
from robbench.spec.study import is_named

if TYPE_CHECKING:
    from robbench.stages.work import Made, Work


@dataclass(frozen=True, kw_only=True)
class Division:
    """How several workers share the images of a stage."""

    parts: Callable[[Work], Sequence[tuple[int, int]]]
    """First image of each part, and the one behind its last; less than two: the stage is made whole."""
    make: Callable[[Work, int, int], dict[str, Any]]
    """Makes a part: the state that it leaves, nested dicts of CPU tensors and JSON values.

    The stage goes on from all of them, as :func:`robbench.stages.resumable.joined` puts them together."""


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """What the rest of robbench must know of a kind of stage.

    Verdicts come from :func:`robbench.gate.verdicts.judge`, which dispatches on the result.
    """

    name: str
    result: type[Struct]
    """What comes out. Its method ``figures()`` gives the numbers for reports and JUnit files."""
    specs: Callable[[Study, Model], Mapping[str, Any]]
    """What a study asks of a model beyond the model itself, by label; nothing: it asks for no such stage.

    The stage without a label (``""``) has the kind's name, another the label behind it: ``robustness-reference``.
    """
    needs: Callable[[Model, Any], Mapping[str, tuple[Any, ...]]]
    """From model and spec to the stages that must be finished before, by role: kind, model and, where it has one, spec."""
    run: Callable[[Work], Made]
    """Makes the stage."""
    spec_name: str = "spec"
    """What the spec is called in records."""
    division: Callable[[], Division] | None = None
    """How several workers share it; None: they do not."""


def _train(work: Work) -> Made:
    from robbench.stages.training_stage import train_model

    return train_model(work)


def _estimate(work: Work) -> Made:
    from robbench.stages.robustness_stage import estimate_model

    return estimate_model(work)


def _divide_search() -> Division:
    from robbench.stages.robustness_stage import images_of_parts, search_part

    return Division(parts=images_of_parts, make=search_part)


def _bound(work: Work) -> Made:
    from robbench.stages.bounds_stage import bound_model

    return bound_model(work)


def _divide_bounds() -> Division:
    from robbench.stages.bounds_stage import bound_part, images_of_parts

    return Division(parts=images_of_parts, make=bound_part)


def _drift(work: Work) -> Made:
    from robbench.stages.drift_stage import measure_drift

    return measure_drift(work)


def _estimates(study: Study, model: Model) -> dict[str, Estimate]:
    also = [each.estimate for each in study.also if each.asks(model)]
    return {"": study.estimate} | {each.search_label: each for each in also}


def _bounds(study: Study, model: Model) -> dict[str, Bounded]:
    """Without the patterns that chose the model: naming one more asks nothing new of the others."""
    bounds = study.bounds
    if bounds is None or not any(is_named(model, pattern) for pattern in bounds.models):
        return {}
    verifier = bounds.verifier
    if verifier:
        asked = any(is_named(model, pattern) for pattern in verifier.models)
        verifier = replace(verifier, models=("*",)) if asked else None
    return {"": Bounded(bounds=replace(bounds, models=("*",), verifier=verifier), estimate=study.estimate)}


def _drifts(study: Study, model: Model) -> dict[str, Drift]:
    """Of transfers that keep frozen blocks of a model."""
    cut = model.transfer is not None and model.transfer.kept == "frozen" and isinstance(model.source, Model)
    return {"": study.drift} if study.drift and cut and model.dataset == study.target else {}


KINDS: dict[str, StageKind] = {}


def add_kind(kind: StageKind) -> None:
    """Let studies have stages of this kind, and records their results."""
    KINDS[kind.name] = kind
    remember(kind.run.__module__)
    RESULTS[kind.name] = kind.result


add_kind(
    StageKind(
        name="training",
        result=Training,
        specs=lambda study, model: {"": None},
        needs=lambda model, spec: {role: ("training", parent) for role, parent in model.parents().items()},
        run=_train,
    )
)
add_kind(
    StageKind(
        name="robustness",
        result=Robustness,
        specs=_estimates,
        needs=lambda model, spec: {"model": ("training", model)},
        run=_estimate,
        spec_name="estimate",
        division=_divide_search,
    )
)
add_kind(
    StageKind(
        name="bounds",
        result=LowerBounds,
        specs=_bounds,
        needs=lambda model, spec: {"model": ("training", model), "pstar": ("robustness", model, spec.estimate)},
        run=_bound,
        spec_name="bounds",
        division=_divide_bounds,
    )
)
add_kind(
    StageKind(
        name="drift",
        result=FeatureDrift,
        specs=_drifts,
        needs=lambda model, spec: {"source": ("training", model.source)},
        run=_drift,
        spec_name="drift",
    )
)
