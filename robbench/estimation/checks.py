"""The attacks of an audit. Each counts its passes, and says image by image whether the network was fooled."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from robbench.attacks import apgd_t, counted, gradient_of, without_parameter_gradients
from robbench.estimation.batching import Batching
from robbench.estimation.masking import BLOCKED
from robbench.estimation.problem import Problem
from robbench.estimation.sampling import APGD_STEPS, APGD_TARGETS

ROUNDING = 1e-3
"""Share of an image's largest logit by which its logits may differ the second time."""

Indices = NDArray[np.int64]
Flags = NDArray[np.bool_]
Look = Callable[[Tensor, Tensor, slice], Sequence[Tensor]]
"""From a batch of float images, their labels, and their part of all images, to columns of (B,) bool."""


class Checks:
    """Attacks on some images of a problem, by their (N,) indices, in batches."""

    def __init__(self, problem: Problem, size: int) -> None:
        self._problem = problem
        self.batching = Batching(problem, "the audit", size)
        self.forward = self.backward = 0
        """Images that passed so far, Square's not counted."""

    def one_step(self, chosen: Indices, radii: Sequence[float]) -> Flags:
        """(N, 3 + R): the gradient is zero, it is not finite, the logits differ the second time; fooled by one step of R radii."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> list[Tensor]:
            gradient, logits = self._gradient(originals, labels)
            flat = gradient.flatten(1)
            blocked = (flat == 0).sum(dim=1) >= BLOCKED * flat.shape[1]
            again = torch.empty_like(logits)
            for start in range(min(2, len(originals))):  # every second image has other neighbours, in another row
                again[start::2] = self._logits(originals[start::2].contiguous())[1].detach()
            same = (again - logits).abs().amax(dim=1) <= ROUNDING * logits.abs().amax(dim=1)  # never where it is NaN
            steps = (torch.add(originals, gradient.sign(), alpha=radius) for radius in radii)
            fooled = [self._fooled_near(*pair, originals, labels) for pair in zip(steps, radii, strict=True)]
            return [blocked, ~torch.isfinite(flat).all(dim=1), ~same, *fooled]

        return self._batched(look, chosen, 3 + len(radii))

    def towards(self, chosen: Indices, others: Indices, radii: Sequence[float]) -> Flags:
        """(N, R): fooled at each of R radii by the image of the ball that is nearest to another image."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> list[Tensor]:
            goals, _ = self._problem.take(torch.from_numpy(others[part]))
            return [self._fooled_near(goals, radius, originals, labels) for radius in radii]

        return self._batched(look, chosen, len(radii))

    def scan(self, chosen: Indices, radii: Sequence[float], steps: int) -> Flags:
        """(N, 2): fooled by the search's attack at each image's own radius, and its gradient finite in the end."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> list[Tensor]:
            epsilon = torch.tensor(radii[part], dtype=torch.float64, device=labels.device)
            adversarial = self._problem.attacked(originals, labels, epsilon, steps, self.batching.loop)
            self.forward += len(originals) * steps
            self.backward += len(originals) * steps
            finite = torch.isfinite(self._gradient(adversarial, labels)[0].flatten(1)).all(dim=1)
            return [self._fooled(adversarial, originals, labels, epsilon), finite]

        return self._batched(look, chosen, 2)

    def apgd(self, chosen: Indices, radii: Sequence[float]) -> Flags:
        """(N, 1): fooled by APGD-T at each image's own radius."""

        def look(originals: Tensor, labels: Tensor, part: slice) -> list[Tensor]:
            epsilon = torch.tensor(radii[part], dtype=torch.float64, device=labels.device)
            start, box = (self._problem.network, originals, labels, epsilon), self._problem.attack.box
            with counted(self._problem.network) as passes:
                adversarial = apgd_t(*start, steps=APGD_STEPS, targets=APGD_TARGETS, box=box)
            self.forward += passes.forward
            self.backward += passes.backward
            return [self._fooled(adversarial, originals, labels, epsilon)]

        return self._batched(look, chosen, 1)

    def square(self, chosen: Indices, radius: float, queries: int, seed: int) -> Flags:
        """(N, 1): fooled by Square, whose passes are not counted."""
        from pyautoattack.square import SquareAttack

        device = self._problem.device
        attack = SquareAttack(self._problem.network, eps=radius, n_queries=queries, seed=seed)

        def look(originals: Tensor, labels: Tensor, part: slice) -> list[Tensor]:
            # Square seeds the random generator of the whole process.
            with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
                adversarial = attack.perturb(originals, labels)
            return [self._problem.fooled(adversarial, originals, labels, radius)]

        return self._batched(look, chosen, 1)

    def _gradient(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Of the loss, and the logits that it came from."""
        iterate, logits = self._logits(images)
        self.backward += len(images)
        with torch.enable_grad():
            loss = F.cross_entropy(logits, labels, reduction="sum")
        return gradient_of(loss, iterate), logits.detach()

    def _logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The images with a gradient, without which some layers compute in another way, and their logits."""
        self.forward += len(images)
        with torch.enable_grad():
            iterate = images.detach().requires_grad_()
            return iterate, self._problem.network(iterate)

    def _fooled_near(self, goals: Tensor, radius: float, originals: Tensor, labels: Tensor) -> Tensor:
        """Which images are fooled by the image of ball and box that is nearest to their goal."""
        adversarial = goals.clamp(originals - radius, originals + radius).clamp_(*self._problem.attack.box)
        return self._fooled(adversarial, originals, labels, radius)

    def _fooled(self, adversarial: Tensor, originals: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
        self.forward += len(originals)
        return self._problem.fooled(adversarial, originals, labels, epsilon)

    def _batched(self, look: Look, chosen: Indices, width: int) -> Flags:
        """The columns that ``look`` gives, for all images."""
        found, start = np.zeros((len(chosen), width), dtype=np.bool_), 0

        def fill() -> int:
            part, before = slice(start, start + self.batching.size), (self.forward, self.backward)
            try:
                columns = look(*self._problem.take(torch.from_numpy(chosen[part])), part)
            except (RuntimeError, MemoryError):
                self.forward, self.backward = before
                raise
            for number, column in enumerate(columns):
                found[part, number] = column.cpu().numpy()
            return part.stop

        with without_parameter_gradients(self._problem.network):
            while start < len(chosen):
                start = self.batching(fill)
        return found
