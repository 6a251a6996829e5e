"""The largest certified radius of each image, by bisection over the grid, a batch of images at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from robbench.bounds.propagation import BoundedNetwork, Boxes, Method, margin_functions
from robbench.errors import RobbenchError

IMAGES = 32
"""Images that are bounded together."""

METHODS: tuple[Method, ...] = ("ibp", "crown-ibp", "crown")
"""From the cheapest to the tightest; each bounds what the ones before it left open."""


@dataclass(frozen=True, kw_only=True)
class Certification:
    """What is to be certified, on one device."""

    network: nn.Module
    """In plain layers and eval mode."""
    images: Tensor
    """(N, C, H, W) float32 in [0, 1], classified correctly."""
    labels: Tensor
    """(N,) int64."""
    grid: Sequence[float]
    """Radii from 0, ascending, in pixel units."""
    pstar: Tensor
    """(N,) int64: grid index of the smallest radius with a counterexample, ``len(grid)`` where none is known."""
    names: Sequence[int]
    """What messages call the images: their indices in the test set."""
    classes: int
    method: Method = "crown"
    probes: int = 1
    """Radii of an image that are tried at once: 1 is bisection."""


class BoundSearch:
    """Finds for each image the largest certified radius of the grid; a part of a stage, a batch of images a step.

    The radius of the counterexample is tried first: certifying it would prove that bound or counterexample is wrong.

    Raises:
        RobbenchError: a layer has no bounds.
    """

    def __init__(self, problem: Certification, notes: list[str]) -> None:
        self._problem, self._notes = problem, notes
        self._network = BoundedNetwork(problem.network, notes=notes)
        count = len(problem.images)
        self.certified = torch.zeros(count, dtype=torch.int64)
        """(N,) grid index of the largest certified radius; radius 0 is that of a correct image."""
        self.by = torch.full((count,), -1)
        """(N,) index in :data:`METHODS` of what certified it; −1 where that was radius 0."""
        self.open_classes = torch.ones(count, problem.classes, dtype=torch.bool)
        """(N, classes) which classes are not excluded at the next radius."""
        self._finished = 0
        self._before = 0

    @property
    def done(self) -> bool:
        """Whether every image is bounded."""
        return self._finished == len(self._problem.images)

    @property
    def progress(self) -> tuple[float, float]:
        """Images bounded, and all."""
        return self._finished, len(self._problem.images)

    @property
    def rows(self) -> int:
        """Linear functions that went backwards through the network."""
        return self._before + self._network.rows

    def step(self) -> None:
        """Bound one batch of images.

        Raises:
            RobbenchError: the radius of a counterexample is certified.
        """
        part = slice(self._finished, min(self._finished + IMAGES, len(self._problem.images)))
        with torch.no_grad():
            self._bound(part)
        self._finished = part.stop

    def state_dict(self) -> dict[str, Any]:
        """What was found."""
        found = {"certified": self.certified, "by": self.by, "open": self.open_classes}
        counted = {"finished": self._finished, "rows": self.rows, "notes": [*self._notes]}
        return {name: value.clone() for name, value in found.items()} | counted

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of the same problem."""
        self.certified, self.by, self.open_classes = state["certified"], state["by"], state["open"].bool()
        self._finished, self._before = state["finished"], state["rows"]
        self._notes.extend(note for note in state["notes"] if note not in self._notes)

    def _bound(self, part: slice) -> None:
        problem = self._problem
        images, labels = problem.images[part], problem.labels[part]
        low, high = torch.zeros(len(labels), dtype=torch.int64), problem.pstar[part].clone()
        by = torch.full_like(low, -1)
        open_classes = torch.ones(len(labels), problem.classes, dtype=torch.bool)
        open_classes[torch.arange(len(labels)), labels.cpu()] = False
        known = (high < len(problem.grid)).nonzero().flatten()
        certain, left, _ = self._certify(images, labels, known, high[known], open_classes[known])
        if certain.any():
            raise self._crossed(known[certain][0], part, high)
        open_classes[known] = left
        while len(active := (high - low > 1).nonzero().flatten()):
            places = _between(low[active], high[active], problem.probes)
            owners = active.repeat_interleave(places.shape[1])
            certain, left, method = self._certify(images, labels, owners, places.flatten(), open_classes[owners])
            certain, method = certain.view(places.shape), method.view(places.shape)
            left = left.view(*places.shape, -1)
            for row, image in enumerate(active.tolist()):
                best = int(certain[row].sum().item() and certain[row].nonzero().max() + 1)
                if best:
                    low[image], by[image] = places[row, best - 1], method[row, best - 1]
                failing = [at for at in range(best, places.shape[1]) if places[row, at] < high[image]]
                if failing:
                    high[image], open_classes[image] = places[row, failing[0]], left[row, failing[0]]
        self.certified[part], self.by[part], self.open_classes[part] = low, by, open_classes

    def _crossed(self, image: Tensor, part: slice, high: Tensor) -> RobbenchError:
        problem, place = self._problem, int(image)
        name, radius = problem.names[part.start + place], problem.grid[int(high[place])]
        what = f"no bound at or above a counterexample, got radius {radius:g} certified where one was confirmed"
        return RobbenchError(
            f"bounds of image {name}: expected {what}; one of the two is wrong: please report this with the weights"
        )

    def _certify(
        self, images: Tensor, labels: Tensor, owners: Tensor, places: Tensor, open_classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Try grid radii of images: whether each is certified, (T, classes) which classes stay open, and by which method."""
        device = images.device
        radii = torch.tensor(self._problem.grid, dtype=torch.float64)[places]
        left, method = open_classes.clone(), torch.full((len(owners),), -1)
        for number, name in enumerate(METHODS[: METHODS.index(self._problem.method) + 1]):
            tried = left.any(1).nonzero().flatten()
            if not len(tried):
                break
            of = owners[tried].to(device)
            boxes = Boxes.around(images[of], radii[tried].to(device))
            functions, rows, others = margin_functions(labels[of], left[tried].to(device))
            margins = self._network.margins(boxes, functions, rows, name)
            proved = (margins > 0).cpu()
            left[tried[rows.cpu()[proved]], others.cpu()[proved]] = False
            method[tried[~left[tried].any(1)]] = number
        return ~left.any(1), left, method


def _between(low: Tensor, high: Tensor, probes: int) -> Tensor:
    """(B, probes) places that split the (B,) gaps evenly, ascending, each inside its gap."""
    share = torch.arange(1, probes + 1) / (probes + 1)
    places = low[:, None] + ((high - low)[:, None] * share).long()
    return places.clamp(min=low[:, None] + 1, max=high[:, None] - 1)
