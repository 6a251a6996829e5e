"""The stage that measures how far an attack moves the features that a transfer keeps, before it is retrained."""

from __future__ import annotations

import torch
from torch import Tensor, linalg, nn

from robbench.attacks import pgd
from robbench.data import pixels, training_parts
from robbench.machine.onednn import dense
from robbench.models import Network, blocks
from robbench.record import FeatureDrift
from robbench.spec import Drift
from robbench.stages.networks import transferred_network
from robbench.stages.work import Made, Work, images_used

BATCH = 256
"""Images attacked at once."""


class Kept(nn.Module):
    """A network up to its last k blocks."""

    def __init__(self, network: Network, k: int) -> None:
        super().__init__()
        self.network = network
        self._first = blocks(network)[-k].modules[0]

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [0, 1] -> (N, features), what the last k blocks get."""
        seen: list[Tensor] = []
        handle = self._first.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        try:
            self.network(images)
        finally:
            handle.remove()
        return dense(seen[-1]).flatten(1)


def squared_distance(features: Tensor, clean: Tensor) -> Tensor:
    """Sum over images of the squared L2 distances between (N, features) and (N, features)."""
    return (features - clean).square().sum()


def measure_drift(work: Work) -> Made:
    """Attack validation images of the target so that the source's kept features move as far as they can."""
    model, spec, device = work.task.model, work.task.spec, work.context.device
    assert isinstance(spec, Drift)
    assert spec.attack.epsilon is not None
    assert model.transfer is not None
    with work.stopwatch.region("io"):
        validation = training_parts(model.dataset, work.data, device)[1]
        network = work.network("source")
    kept = Kept(network, model.transfer.k).eval()
    count = min(spec.images, len(validation))
    generator = torch.Generator(device).manual_seed(model.seed)
    moved, found = [], []
    with work.stopwatch.region("estimation"):
        for part in torch.split(torch.arange(count, device=validation.labels.device), BATCH):
            taken = validation.take(part)
            images = pixels(taken.images)
            with torch.no_grad():
                clean = kept(images)
            attacked = pgd(
                kept,
                images,
                taken.labels,
                spec.attack.epsilon,
                steps=spec.attack.steps,
                step_size=spec.attack.step_size,
                box=spec.attack.box,
                generator=generator,
                loss=squared_distance,
                target=clean,
            )
            with torch.no_grad():
                moved.append(linalg.vector_norm(kept(attacked) - clean, dim=1))
            found.append(clean)
        clean = torch.cat(found)
        apart = linalg.vector_norm(clean - clean.mean(dim=0), dim=1).mean()
        drift = (torch.cat(moved).mean() / apart).item()
    return Made(
        result=FeatureDrift(epsilon=spec.attack.epsilon, images=count, drift=drift),
        network=transferred_network(model, work.data, network).network,
        data=images_used(work, train=0, validation=count, test=0),
    )
