"""The kinds of stages, as data: a new kind is one more entry of ``KINDS``. No torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from robbench.record import RESULTS, Robustness, Struct, Training
from robbench.spec import Model, Study

if TYPE_CHECKING:
    from robbench.stages.work import Made, Work


@dataclass(frozen=True, kw_only=True)
class StageKind:
    """What the rest of robbench must know of a kind of stage.

    Verdicts come from :func:`robbench.gate.verdicts.judge`, which dispatches on the result.
    """

    name: str
    result: type[Struct]
    """What comes out. Its method ``figures()`` gives the numbers for reports and JUnit files."""
    specs: Callable[[Study], Sequence[Any]]
    """What a study asks of every model beyond the model itself, as the only entry; empty: it asks for no such stage."""
    needs: Callable[[Model], Mapping[str, tuple[str, Model]]]
    """Kind and model of the stages that must be finished before, by role."""
    run: Callable[[Work], Made]
    """Makes the stage."""
    spec_name: str = "spec"
    """What the spec is called in records."""


def _train(work: Work) -> Made:
    from robbench.stages.training_stage import train_model

    return train_model(work)


def _estimate(work: Work) -> Made:
    from robbench.stages.robustness_stage import estimate_model

    return estimate_model(work)


KINDS: dict[str, StageKind] = {}


def add_kind(kind: StageKind) -> None:
    """Let studies have stages of this kind, and records their results."""
    KINDS[kind.name] = kind
    RESULTS[kind.name] = kind.result


add_kind(
    StageKind(
        name="training",
        result=Training,
        specs=lambda study: (None,),
        needs=lambda model: {role: ("training", parent) for role, parent in model.parents().items()},
        run=_train,
    )
)
add_kind(
    StageKind(
        name="robustness",
        result=Robustness,
        specs=lambda study: (study.estimate,),
        needs=lambda model: {"model": ("training", model)},
        run=_estimate,
        spec_name="estimate",
    )
)
