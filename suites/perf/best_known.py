"""The smallest known p* of every image, by the strongest attacks of other libraries; needs the group ``peers``.

Every attack starts below what the ones before it found: APGD on the cross-entropy, APGD-T over nine classes (Croce and
Hein 2020) and Square (Andriushchenko et al. 2020) go down from there grid step by grid step until none finds anything.
What they find counts when plain float32 inference confirms it, at its true distance, rounded up to the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, is_counterexample
from suites.perf.plain import Counted

Attack = Callable[[nn.Module, Tensor, Tensor, Tensor], Tensor]
"""(network, (B, C, H, W) images, (B,) labels, (B,) radii) -> (B, C, H, W) adversarial images."""


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


def with_attacks(
    network: nn.Module, images: Tensor, labels: Tensor, grid: Sequence[float]
) -> dict[str, tuple[Tensor, int, int]]:
    """Of every attack in turn: (N,) grid indices, and passes forward and backward. Images are classified correctly."""
    found = {}

    def count(name: str, attack: Callable[[Counted], Tensor]) -> Tensor:
        counted = Counted(network)
        index = attack(counted)
        found[name] = index, counted.forwards, counted.backwards
        return index

    def minimal(counted: Counted) -> Tensor:
        return at_true_distance(network, fmn(counted, images, labels), images, labels, grid)

    best = count("FMN", minimal)
    for name, attack in (("APGD-CE", apgd_ce), ("APGD-T", apgd_t), ("Square", square), ("APGD-T again", apgd_t)):
        best = count(
            name, lambda counted, attack=attack, best=best: descended(counted, attack, images, labels, best, grid)
        )
    return found
