"""Learning without forgetting: fine-tuning that keeps the features of the robust source (Shafahi et al. 2020)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch.nn.functional as F
from torch import Tensor, linalg, nn

from robbench.machine.onednn import dense
from robbench.models import Network
from robbench.spec import LwF
from robbench.training.objectives import Batch, Loss, loss_function


class Penultimate(nn.Module):
    """A network up to its head."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(N, C, H, W) float32 in [0, 1] -> (N, features), the inputs of the whole head."""
        with head_inputs(self.network) as features:
            self.network(images)
        return features[-1]


@contextmanager
def head_inputs(network: Network) -> Iterator[list[Tensor]]:
    """Gets what the head of the network gets in each pass, flattened: (N, features)."""
    seen: list[Tensor] = []
    head = network.body.get_submodule(network.head)
    handle = head.register_forward_pre_hook(lambda module, inputs: seen.append(dense(inputs[0]).flatten(1)))
    try:
        yield seen
    finally:
        handle.remove()


@loss_function.register
def _(objective: LwF, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    norm = 1 if objective.norm == "l1" else 2
    network = cast(Network, student)

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        assert batch.reference is not None
        with head_inputs(network) as features:
            logits = student(batch.clean)
        moved = linalg.vector_norm(features[-1].float() - batch.reference.float(), ord=norm, dim=1).mean()
        return F.cross_entropy(logits.float(), batch.labels) + objective.penalty * moved, logits

    return Loss(loss, reference=Penultimate(cast(Network, parents["source"])))
