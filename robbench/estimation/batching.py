"""Attacks in batches, which become smaller where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch

from robbench.attacks import evaluating
from robbench.estimation.problem import Problem
from robbench.machine.graphs import GraphedLoop
from robbench.machine.memory import attack_batch, halved, release
from robbench.machine.precision import full_precision

Result = TypeVar("Result")


class Batching:
    """How many images are attacked at once, and the loop that repeats the steps of their attacks.

    ``size`` is that of a search on the same images, and 0 where it has none.
    """

    def __init__(self, problem: Problem, what: str, size: int = 0) -> None:
        self._problem, self._what = problem, what
        self.size, self._fits = size, size > 0
        self.renew_loop()

    def renew_loop(self) -> None:
        """Free the CUDA graphs captured so far."""
        self.loop = GraphedLoop(self._problem.device, self._problem.notes)

    def __call__(self, work: Callable[[], Result]) -> Result:
        """Do the work in eval mode and full precision; again with half the batch size where memory runs out."""
        problem = self._problem
        with evaluating(problem.network), full_precision(problem.device):
            if not self._fits:
                largest = problem.batch_size or attack_batch(problem.network, problem.take(torch.tensor([0]))[0])
                # A resumed search keeps its size where it fits, as other batches round differently.
                self.size, self._fits = min(self.size or largest, largest), True
            while True:
                try:
                    return work()
                except (RuntimeError, MemoryError) as error:
                    self.size = halved(self.size, error, problem.device)
                self.renew_loop()
                release(problem.device)
                problem.note([f"out of memory: {self._what} went on with batches of {self.size} images"])
