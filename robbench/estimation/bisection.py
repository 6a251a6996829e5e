"""The ``reference`` search: the binary search of the published study (ADA-VERONA), in batches."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from robbench.attacks import is_right
from robbench.estimation.batching import Batching
from robbench.estimation.problem import Outcome, Problem
from robbench.record import MISCLASSIFIED


class Bisection:
    """Find p* of every image by a binary search over the grid.

    Every image has its own bracket of grid indices. It is attacked at the middle of the bracket with all steps of the
    attack. After a success the search goes down, otherwise up. A success counts only when float32 inference, outside
    autocast and without TF32, confirms the counterexample inside ball and box. At ε = 0 nothing is attacked.
    """

    def __init__(self, problem: Problem) -> None:
        count = len(problem.images)
        self.problem = problem
        self.batching = Batching(problem, "p*")
        self.radii = torch.tensor(problem.grid, dtype=torch.float64)
        self.judged = 0
        """Images that were classified unperturbed so far; the brackets of the others are closed."""
        self.first = torch.zeros(count, dtype=torch.int64)
        """First and last grid index in question, (N,) on the CPU; the bracket is closed where first > last."""
        self.last = torch.full_like(self.first, -1)
        self.pstar = torch.full_like(self.first, MISCLASSIFIED)
        self.adversarials: Tensor | None = None
        self._state = ["first", "last", "pstar", "judged", "forward", "backward"]
        if problem.keep_adversarials:
            example, _ = problem.take(torch.tensor([0]))
            self.adversarials = torch.zeros((count, *example.shape[1:]), dtype=example.dtype)
            self._state.append("adversarials")
        self.forward = self.backward = 0

    @property
    def undecided(self) -> Tensor:
        """Indices of the images whose bracket is open."""
        return (self.first <= self.last).nonzero().flatten()

    @property
    def done(self) -> bool:
        """Whether every bracket is closed."""
        return self.judged == len(self.first) and not len(self.undecided)

    @property
    def progress(self) -> tuple[float, float]:
        """Images with a closed bracket, and all of them."""
        return self.judged - len(self.undecided), len(self.first)

    @property
    def outcome(self) -> Outcome:
        """What was found so far."""
        counted = self.forward, self.backward
        return Outcome(self.pstar, self.adversarials, *counted, self.problem.notes, self.batching.size)

    def step(self) -> None:
        """Classify a batch unperturbed, or once all were, halve the brackets of the next images."""
        self.batching(self._judge if self.judged < len(self.first) else self._probe)

    def state_dict(self) -> dict[str, Any]:
        """The brackets, what was found, and what was counted."""
        state = {name: getattr(self, name) for name in self._state}
        return deepcopy(state | {"batch_size": self.batching.size, "notes": self.problem.notes})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same problem; KeyError where counterexamples are to be kept, and it has none."""
        for name in self._state:
            setattr(self, name, deepcopy(state[name]))
        self.batching.size = state["batch_size"]
        self.problem.note(state["notes"])

    def settle(self, index: Tensor, grid_index: Tensor, adversarial: Tensor) -> None:
        """Take confirmed counterexamples: images (B,), the grid indices of their radii (B,), and (B, C, H, W)."""
        if self.adversarials is not None:
            self.adversarials[index] = adversarial.cpu()
        self.pstar[index] = grid_index
        self.last[index] = grid_index - 1

    def _judge(self) -> None:
        """Classify the next images unperturbed, and open the brackets of those that are right."""
        index = torch.arange(self.judged, min(self.judged + self.batching.size, len(self.first)))
        images, labels = self.problem.take(index)
        right = is_right(self.problem.network, images, labels, "test").cpu()
        self.pstar[index[right]] = len(self.radii)
        self.last[index[right]] = len(self.radii) - 1
        self.judged += len(index)
        self.forward += len(index)

    def _probe(self) -> None:
        """Attack the next undecided images at the middle of their brackets, and halve the brackets."""
        problem, radii, steps = self.problem, self.radii, self.problem.attack.steps
        batch = self.undecided[: self.batching.size]
        middle = (self.first[batch] + self.last[batch]) // 2
        fooled = torch.zeros(len(batch), dtype=torch.bool)
        attacked = radii[middle] > 0
        if attacked.any():
            originals, labels = problem.take(batch[attacked])
            epsilon = radii[middle[attacked]]
            adversarial = problem.attacked(originals, labels, epsilon, steps, self.batching.loop)
            success = problem.fooled(adversarial, originals, labels, epsilon).cpu()
            fooled[attacked] = success
            self.forward += len(originals) * (steps + 1)
            self.backward += len(originals) * steps
            self.settle(batch[fooled], middle[fooled], adversarial[success.nonzero().flatten().to(problem.device)])
        self.first[batch[~fooled]] = middle[~fooled] + 1
