"""A project's own search: a spec and a class, registered, and p* comes from it."""
# ruff: noqa: D102

from __future__ import annotations

import pytest
import torch
from networks import linear_case

from robbench.attacks import fgsm, is_counterexample
from robbench.errors import RobbenchError
from robbench.estimation.estimators import estimate_pstar, estimator
from robbench.estimation.problem import Outcome, Problem
from robbench.record import MISCLASSIFIED
from robbench.spec import EpsilonGrid, Search


class LinearScan(Search):
    """One step along the gradient, at one grid value after the other."""

    length: float = 1.0
    """Of the step, in radii."""


class Scan:
    """The estimator of a linear scan; a step is one radius."""

    def __init__(self, search, problem):
        self.search, self.problem, self.at = search, problem, 0
        self.images, self.labels = problem.take(torch.arange(len(problem.images)))
        right = problem.network(self.images).argmax(dim=1) == self.labels
        self.pstar = torch.where(right, len(problem.grid), MISCLASSIFIED)

    @property
    def done(self):
        return self.at == len(self.problem.grid)

    @property
    def progress(self):
        return self.at, len(self.problem.grid)

    @property
    def outcome(self):
        return Outcome(self.pstar, None, 0, 0, [], 0)

    def step(self):
        given, radius = (self.images, self.labels), self.problem.grid[self.at]
        adversarial = fgsm(self.problem.network, *given, self.search.length * radius)
        fooled = is_counterexample(self.problem.network, adversarial, *given, radius)
        self.pstar[fooled & (self.pstar == len(self.problem.grid))] = self.at
        self.at += 1

    def state_dict(self):
        return {"pstar": self.pstar, "at": self.at}

    def load_state_dict(self, state):
        self.pstar, self.at = state["pstar"], state["at"]


@estimator.register
def _(search: LinearScan, problem: Problem) -> Scan:
    return Scan(search, problem)


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
    with pytest.raises(RobbenchError, match="search: expected one of reference, fast, or a registered spec, got "):
        estimate_pstar(model, images, labels, [0.1], attack=None, search=search)
