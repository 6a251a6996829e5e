"""Which estimator a search names, and p* in one call."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, singledispatch
from typing import Any, Protocol

from torch import Tensor, nn

from robbench.data import Images, check_pixels
from robbench.errors import RobbenchError, require
from robbench.estimation.bisection import Bisection
from robbench.estimation.other_attacks import ByAttack, Together
from robbench.estimation.problem import Outcome, Problem
from robbench.estimation.shrinking_ball import EFFORTS, ShrinkingBall
from robbench.spec import PGD, Attack, Ensemble
from robbench.spec.searches import search_name

BUILT_IN: dict[str, Callable[[Problem], Bisection]] = {
    "reference": Bisection,
    **{name: partial(ShrinkingBall, effort=effort) for name, effort in EFFORTS.items()},
}


class Estimator(Protocol):
    """A search for p* in small steps, which can be interrupted after each.

    ``step`` attacks one batch. ``progress`` counts the images whose p* is found, and all. ``state_dict`` (nested dicts of
    CPU tensors and plain values) lets another estimator of the same problem go on; loading raises ValueError, KeyError
    or TypeError where a state does not fit.
    """

    # ruff: noqa: D102
    @property
    def done(self) -> bool: ...
    @property
    def progress(self) -> tuple[float, float]: ...
    @property
    def outcome(self) -> Outcome: ...
    def step(self) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@singledispatch
def estimator(search: object, problem: Problem) -> Estimator:
    """The estimator of a search: ``reference``, ``fast``, or a :class:`robbench.spec.Search`, such as one's own.

    A project registers a function from its spec and the problem with ``estimator.register``; else it is a RobbenchError.
    """
    if not isinstance(search, str) or search not in BUILT_IN:
        raise RobbenchError(f"search: expected one of {', '.join(BUILT_IN)}, or a registered spec, got {search!r}")
    require(search != "reference" or problem.norm == "linf", "search", f"another one for norm {problem.norm}", search)
    return BUILT_IN[search](problem)


@estimator.register(Attack)
def _by_attack(search: Attack, problem: Problem) -> Estimator:
    return ByAttack(problem, search)


@estimator.register(Ensemble)
def _together(search: Ensemble, problem: Problem) -> Estimator:
    return Together(problem, {search_name(each): estimator(each, problem) for each in search.searches})


def estimate_pstar(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    grid: Sequence[float],
    attack: PGD,
    *,
    search: object = "reference",
    **options: Any,
) -> Outcome:
    """The smallest radius of the grid at which each correctly classified image was fooled (p*).

    Images are (N, C, H, W) uint8, or floats in [0, 1], on the network's device, and labels (N,) int64. The rest, with the
    options ``batch_size``, ``keep_adversarials`` and ``norm``, is that of :class:`robbench.estimation.problem.Problem`.

    Raises:
        RobbenchError: there is no image, pixels are outside [0, 1], labels do not match, the grid does not ascend, logits
            are not finite, or not even one image fits into memory.
    """
    check_pixels(images)
    source = Images(images, labels)
    problem = Problem(network=network, images=source, device=images.device, grid=grid, attack=attack, **options)
    part = estimator(search, problem)
    while not part.done:
        part.step()
    return part.outcome
