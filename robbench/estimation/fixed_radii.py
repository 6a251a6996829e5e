"""Robust accuracy under attacks at fixed radii (section 5.2 of the thesis), on the images that p* is taken from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from robbench.attacks import is_counterexample, pgd, start_noise
from robbench.estimation.batching import Batching
from robbench.estimation.other_attacks import attack_function
from robbench.estimation.problem import Outcome, Problem
from robbench.record import MISCLASSIFIED, AttackAccuracy, Counts
from robbench.spec import PGD, Attack


class FixedRadii:
    """Count the images that each attack leaves right, of all images; those that are wrong already are not attacked.

    Args:
        problem: the network and the images; its grid and its attack play no part.
        attacks: with a radius; a random start follows the image's number, so that the batch size changes nothing.
        found: by the search on the same images; says which are classified correctly.
    """

    def __init__(self, problem: Problem, attacks: Sequence[PGD | Attack], found: Outcome) -> None:
        self._problem, self._attacks = problem, attacks
        self._others = {each: attack_function(each, problem.norm) for each in attacks if isinstance(each, Attack)}
        self._batching = Batching(problem, "robust accuracy at fixed radii", found.batch_size)
        self._right = (found.pstar != MISCLASSIFIED).nonzero().flatten()
        self._fooled = [0] * len(attacks)
        self._attacked = 0
        """Images attacked so far, over all attacks, one after the other."""

    @property
    def done(self) -> bool:
        """Whether every attack has attacked every image."""
        return self._attacked == self.progress[1]

    @property
    def progress(self) -> tuple[float, float]:
        """Images attacked, and all that will be, over all attacks."""
        return self._attacked, len(self._attacks) * len(self._right)

    @property
    def outcome(self) -> list[AttackAccuracy]:
        """The robust accuracy under each attack."""
        right, total = len(self._right), len(self._problem.images)
        return [
            _accuracy(attack, Counts(correct=right - fooled, total=total))
            for attack, fooled in zip(self._attacks, self._fooled, strict=True)
        ]

    def step(self) -> None:
        """Attack one batch."""
        self._batching(self._attack)

    def state_dict(self) -> dict[str, Any]:
        """What was counted."""
        return {"fooled": list(self._fooled), "attacked": self._attacked}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same problem."""
        self._fooled, self._attacked = list(state["fooled"]), state["attacked"]

    def _attack(self) -> None:
        number, start = divmod(self._attacked, len(self._right))
        batch = self._right[start : start + self._batching.size]
        self._fooled[number] += int(self._fools(self._attacks[number], batch).sum())
        self._attacked += len(batch)

    def _fools(self, attack: PGD | Attack, batch: Tensor) -> Tensor:
        epsilon, network, (originals, labels) = attack.epsilon, self._problem.network, self._problem.take(batch)
        assert epsilon is not None
        if isinstance(attack, Attack):
            radii = torch.full(labels.shape, epsilon, device=labels.device)
            found = self._others[attack](network, originals, labels, radii)
            return self._problem.fooled(found, originals, labels, epsilon)
        found = pgd(
            network,
            originals,
            labels,
            epsilon,
            steps=attack.steps,
            step_size=attack.step_size,
            random_start=attack.random_start,
            box=attack.box,
            noise=_noise(batch, originals) if attack.random_start else None,
            loop=self._batching.loop,
        )
        return is_counterexample(network, found, originals, labels, epsilon, box=attack.box)


def _noise(index: Tensor, originals: Tensor) -> Tensor:
    """Where in its ball each image starts, in radii: drawn on the CPU, for each image by its number."""
    like, generators = originals[:1].cpu(), (torch.Generator().manual_seed(number) for number in index.tolist())
    return torch.cat([start_noise(like, generator) for generator in generators]).to(originals)


def _accuracy(attack: PGD | Attack, robust: Counts) -> AttackAccuracy:
    assert attack.epsilon is not None
    if isinstance(attack, Attack):
        return AttackAccuracy(attack=attack.label, epsilon=attack.epsilon, robust=robust)
    step = attack.step_size or attack.epsilon / attack.steps
    kind = "fgsm" if attack.steps == 1 and step >= attack.epsilon else "pgd"
    return AttackAccuracy(attack=kind, epsilon=attack.epsilon, steps=attack.steps, step_size=step, robust=robust)
