"""A project's own search: a spec and a class, registered, and p* comes from it."""
# ruff: noqa: D102

from __future__ import annotations

import pytest
import torch
from networks import linear_case

from robbench.attacks import fgsm, is_counterexample, is_right
from robbench.errors import RobbenchError
from robbench.estimation.estimators import estimate_pstar, estimator
from robbench.estimation.problem import Outcome
from robbench.record import MISCLASSIFIED
from robbench.spec import EpsilonGrid, Search


class LinearScan(Search):
    """One step along the gradient, so many radii long, at one grid value after the other."""

    length: float = 1.0


class Scan:
    """The estimator of a linear scan; a step is one radius."""

    def __init__(self, search, problem):
        self.search, self.problem = search, problem
        self.given = problem.take(torch.arange(len(problem.images)))
        self.pstar = torch.where(is_right(problem.network, *self.given, "test"), len(problem.grid), MISCLASSIFIED)
        self.progress = 0, len(problem.grid)

    @property
    def done(self):
        return self.progress[0] == self.progress[1]

    @property
    def outcome(self):
        return Outcome(self.pstar)

    def step(self):
        (at, total), network = self.progress, self.problem.network
        radius = self.problem.grid[at]
        adversarial = fgsm(network, *self.given, self.search.length * radius)
        self.pstar[is_counterexample(network, adversarial, *self.given, radius) & (self.pstar == total)] = at
        self.progress = at + 1, total

    def state_dict(self):
        return {"pstar": self.pstar, "at": self.progress[0]}

    def load_state_dict(self, state):
        self.pstar, self.progress = state["pstar"], (state["at"], len(self.problem.grid))


estimator.register(LinearScan, Scan)


@pytest.mark.parametrize("length", [1.0, 0.5])
def test_a_registered_search_gives_pstar(length):
    """A linear model's p* is its margin rounded up to the grid, by a search that this file alone knows."""
    model, images, labels, exact = linear_case(3)
    grid = EpsilonGrid(stop=0.16, step=0.005).values
    found = estimate_pstar(model, images, labels, grid, attack=None, search=LinearScan(length=length))
    assert found.pstar.tolist() == [sum(length * radius < value for radius in grid) for value in exact.tolist()]


@pytest.mark.parametrize("search", ["slow", None, 3])
def test_a_search_that_nobody_registered_is_refused(search):
    """With the names of the two that are built in."""
    model, images, labels, _ = linear_case(3)
    with pytest.raises(
        RobbenchError, match="search: expected one of reference, fast, thorough, or a registered spec, got "
    ):
        estimate_pstar(model, images, labels, [0.1], attack=None, search=search)
