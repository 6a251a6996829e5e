"""The smallest known p* of every image, by the strongest attacks of other libraries; needs the extra ``peers``.

Every attack starts below what the ones before it found: APGD on the cross-entropy, APGD-T over nine classes (Croce and
Hein 2020) and Square (Andriushchenko et al. 2020) go down from there grid step by grid step until none finds anything.
What they find counts when plain float32 inference confirms it, at its true distance, rounded up to the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, is_counterexample
from robbench.record import MISCLASSIFIED

Attack = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(network, (B, C, H, W) images, (B,) labels, (B,) radii) -> (B, C, H, W) adversarial images."""


class Counted(nn.Module):
    """A network that counts the images that pass it forward and backward."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.forwards, self.backwards = network, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        """Logits of (N, C, H, W) images."""
        self.forwards += len(images)
        logits: Tensor = self.network(images)
        if logits.requires_grad:
            logits.register_hook(self._backward)
        return logits

    def _backward(self, gradient: Tensor) -> None:
        self.backwards += len(gradient)


def at_true_distance(
    network: nn.Module, adversarial: Tensor, images: Tensor, labels: Tensor, grid: Sequence[float]
) -> Tensor:
    """(B,) int64 grid indices of the smallest radii that hold the counterexamples; ``len(grid)`` where it is none."""
    radii = torch.tensor(grid, dtype=torch.float64)
    distance = (adversarial - images).abs().flatten(1).amax(1).double()
    index = torch.searchsorted(radii, distance - BALL_TOLERANCE).clamp(max=len(grid) - 1)
    right = is_counterexample(network, adversarial, images, labels, radii[index])
    return torch.where(right, index, len(grid))


def fmn(network: nn.Module, images: Tensor, labels: Tensor, steps: int = 1_000) -> Tensor:
    """Minimal adversarial images by the fast minimum-norm attack (Pintor et al. 2021)."""
    from adv_lib.attacks.fast_minimum_norm import fmn as attack

    return attack(network, images, labels, norm=float("inf"), steps=steps)


def apgd_ce(network: nn.Module, images: Tensor, labels: Tensor, radii: Tensor, steps: int = 100) -> Tensor:
    """APGD on the cross-entropy."""
    from adv_lib.attacks.auto_pgd import apgd

    return apgd(network, images, labels, radii, norm=float("inf"), n_iter=steps, loss_function="ce")


def apgd_t(
    network: nn.Module, images: Tensor, labels: Tensor, radii: Tensor, steps: int = 100, targets: int = 9
) -> Tensor:
    """APGD-T: the difference of logits ratio towards each of the most likely classes."""
    from adv_lib.attacks.auto_pgd import apgd_targeted

    return apgd_targeted(network, images, labels, radii, norm=float("inf"), n_iter=steps, num_targets=targets)


def square(network: nn.Module, images: Tensor, labels: Tensor, radii: Tensor, queries: int = 1_000) -> Tensor:
    """Square, which needs no gradients."""
    from torchattacks import Square

    adversarial = images.clone()
    for radius in radii.unique():
        rows = radii == radius
        attack = Square(network, eps=float(radius), n_queries=queries)
        adversarial[rows] = attack(images[rows], labels[rows])
    return adversarial


def descended(
    network: nn.Module, attack: Attack, images: Tensor, labels: Tensor, best: Tensor, grid: Sequence[float]
) -> Tensor:
    """Grid indices after an attack went down from (N,) indices, each time to the radius below what was found."""
    radii, best = torch.tensor(grid), best.clone()
    busy = (best > 1).nonzero().flatten()
    while len(busy):
        within = radii[best[busy] - 1].to(images)
        adversarial = attack(network, images[busy], labels[busy], within)
        # Rounding of an attack's own projection is not allowed to make a counterexample.
        inside = within.view(-1, 1, 1, 1)
        adversarial = adversarial.clamp(images[busy] - inside, images[busy] + inside).clamp(0, 1)
        found = at_true_distance(network, adversarial, images[busy], labels[busy], grid)
        better = found < best[busy]
        best[busy[better]] = found[better]
        busy = busy[better]
        busy = busy[best[busy] > 1]
    return best


def searched(network: nn.Module, attack: Attack, images: Tensor, labels: Tensor, grid: Sequence[float]) -> Tensor:
    """(N,) grid indices of p* by a binary search over the grid with one attack; ``MISCLASSIFIED`` where it is that."""
    radii = torch.tensor(grid)
    with torch.no_grad():
        right = network(images).argmax(1) == labels
    first, last = torch.ones(len(images), dtype=torch.int64), torch.full((len(images),), len(grid) - 1)
    best = torch.where(right, len(grid), MISCLASSIFIED)
    while len(rows := (right & (first <= last)).nonzero().flatten()):
        middle = (first[rows] + last[rows]) // 2
        within = radii[middle].to(images)
        adversarial = attack(network, images[rows], labels[rows], within)
        ball = within.view(-1, 1, 1, 1)
        adversarial = adversarial.clamp(images[rows] - ball, images[rows] + ball).clamp(0, 1)
        found = at_true_distance(network, adversarial, images[rows], labels[rows], grid)
        success = found <= middle
        best[rows[success]] = torch.minimum(found, best[rows])[success]
        last[rows[success]] = found[success] - 1
        first[rows[~success]] = middle[~success] + 1
    return best
