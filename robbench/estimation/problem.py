"""What an estimator is given, and what it returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from robbench.attacks import BALL_TOLERANCE, distance, is_counterexample, pgd
from robbench.data import ImageSource, pixels
from robbench.errors import require
from robbench.machine.graphs import GraphedLoop
from robbench.spec import PGD
from robbench.spec.searches import Norm


@dataclass(frozen=True, kw_only=True)
class Problem:
    """Which network is attacked, on which images, how, and within which radii; a RobbenchError where there are none."""

    network: nn.Module
    """(N, C, H, W) floats in [0, 1] -> (N, classes), on ``device``; attacked in eval mode, its modes come back."""
    images: ImageSource
    device: torch.device
    grid: Sequence[float]
    """Ascending radii in pixel units."""
    attack: PGD
    """Without epsilon and step size: they follow from the grid (step ε ÷ steps)."""
    batch_size: int | None = None
    """Images attacked at once; None for what device and free memory allow."""
    notes: list[str] = field(default_factory=list)
    """Gets a line where a batch was halved, or an attack was not captured as a CUDA graph."""
    keep_adversarials: bool = False
    norm: Norm = "linf"
    """Of the grid's radii; ``attacked`` knows linf alone."""

    def __post_init__(self) -> None:
        require(len(self.images) > 0, "images", "at least one", 0)
        ascending = all(low < high for low, high in pairwise(self.grid))
        require(len(self.grid) > 0 and self.grid[0] >= 0 and ascending, "grid", "ascending radii ≥ 0", self.grid)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """(B, C, H, W) floats and (B,) labels on the device, of the images at (B,) indices."""
        batch = self.images.take(index)
        return pixels(batch.images.to(self.device)), batch.labels.to(self.device)

    def attacked(self, originals: Tensor, labels: Tensor, epsilon: Tensor, steps: int, loop: GraphedLoop) -> Tensor:
        """The last iterate of the attack at (B,) float64 radii, after so many steps of ε ÷ steps."""
        step, box = (epsilon / steps).to(originals), self.attack.box  # divided before it is rounded
        start = self.network, originals, labels, epsilon.to(originals)
        return pgd(*start, steps=steps, step_size=step, random_start=False, box=box, loop=loop)

    def fooled(self, adversarial: Tensor, originals: Tensor, labels: Tensor, epsilon: float | Tensor) -> Tensor:
        """Which of the images are counterexamples within one radius or (B,) radii, (B,) bool."""
        box, norm = self.attack.box, self.norm
        return is_counterexample(self.network, adversarial, originals, labels, epsilon, box=box, norm=norm)

    def grid_index(self, adversarial: Tensor, originals: Tensor) -> Tensor:
        """(B,) int64 on the CPU: of the smallest radius > 0 that holds each image; ``len(grid)`` where none does."""
        far = distance(adversarial, originals, self.norm).cpu().double() - BALL_TOLERANCE
        index = torch.searchsorted(torch.tensor(self.grid, dtype=torch.float64), far)
        return index.clamp(min=int(self.grid[0] <= 0))

    def note(self, lines: Sequence[str]) -> None:
        """Add the notes that are not there yet."""
        self.notes.extend(line for line in lines if line not in self.notes)


@dataclass(frozen=True)
class Outcome:
    """What an estimator found."""

    pstar: Tensor
    """(N,) int64 on the CPU: grid index of p*; ``len(grid)`` where nothing fooled the network, or ``MISCLASSIFIED``."""
    adversarials: Tensor | None = None
    """(N, C, H, W) floats on the CPU: the confirmed counterexample at p*, or zeros. None: they are not kept."""
    forward: int = 0
    """Images passed forward."""
    backward: int = 0
    notes: list[str] = field(default_factory=list)
    batch_size: int = 0
    """Images attacked at once in the end, with which the attacks after the search begin; 0 for no preference."""
    found_by: dict[str, int] = field(default_factory=dict)
    """Of an ensemble: how many p* are those of each search, by its name; of equal ones the first search's."""
