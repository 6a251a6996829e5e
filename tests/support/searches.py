"""What tests of estimators share: problems, the published attack in fewer steps, and how a part is driven."""

from __future__ import annotations

import torch

from robbench.data import Images
from robbench.estimation.audit import AuditPart
from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.fixed_radii import FixedRadii
from robbench.estimation.problem import Outcome, Problem
from robbench.estimation.shrinking_ball import Effort, ShrinkingBall
from robbench.spec import PGD, EpsilonGrid

GRID = EpsilonGrid(stop=0.3, step=0.005).values
BOX = (0.0, 1.0)


def oracle(steps, box=BOX):
    """The published attack with fewer steps than its 40; the fast search needs it for its box and for what it never fools."""
    return PGD(steps=steps, random_start=False, box=box)


def problem_of(network, images, labels, grid=GRID, attack=None, **options):
    """These images as an estimator's problem."""
    source, attack = Images(images, labels), attack or oracle(2)
    return Problem(network=network, images=source, device=images.device, grid=grid, attack=attack, **options)


def fast(network, images, labels, grid=GRID, attack=None, **options):
    """The outcome of the fast search."""
    return estimate_pstar(network, images, labels, grid, attack or oracle(2), search="fast", **options)


def drive(part):
    """Take all steps of a part."""
    while not part.done:
        part.step()
    return part


def interrupted(make, after):
    """Take some steps of a part, and let another one go on from its state, which no later step of either may change."""
    part = make()
    for _ in range(after):
        part.step()
    state, resumed = part.state_dict(), make()
    before = plain(state)
    resumed.load_state_dict(state)
    drive(part)
    drive(resumed)
    assert plain(state) == before
    return resumed


def plain(state):
    """A state with lists instead of tensors, which can be compared."""
    if isinstance(state, dict):
        return {name: plain(value) for name, value in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def run_ball(network, images, labels, grid=GRID, *, box=BOX, size=64, patience=(20,), **effort):
    """The shrinking ball alone, which begins once by default: grid indices of p*, and the images attacked in every step."""
    problem = problem_of(network, images, labels, grid, oracle(1, box), batch_size=size)
    ball = ShrinkingBall(problem, Effort(patience, **effort))
    while ball.judged < len(images):
        ball.step()
    passes = []
    while ball._waiting is None or len(ball._waiting) or ball._rows is not None:
        before = ball.backward
        ball.step()
        passes.append(ball.backward - before)
    return ball.pstar.tolist(), passes


def accuracies(network, images, labels, correct, attacks, batch_size=None, **options):
    """Robust accuracies at fixed radii, where it is known which images are right."""
    problem = problem_of(network, images, labels, **options)
    found = Outcome(torch.where(correct, 0, -1), batch_size=batch_size or 0)
    return drive(FixedRadii(problem, attacks, found)).outcome


def audit_of(network, images, labels, found, attack, audit, grid, *, search="reference", notes=None):
    """The audit of what a search found, an outcome."""
    problem = problem_of(network, images, labels, grid, attack, notes=[] if notes is None else notes)
    return drive(AuditPart(problem, audit, found, reference=search == "reference")).outcome
