"""TWINS: fine-tuning with two branches of batch norm, one of which keeps the source's statistics (Liu et al. 2023)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robbench.errors import RobbenchError
from robbench.spec import TWINS
from robbench.training.objectives import Batch, Loss, loss_function

_Norm = nn.BatchNorm1d | nn.BatchNorm2d
_STATISTICS = ("running_mean", "running_var")


@contextmanager
def statistics_of(pairs: Sequence[tuple[nn.Module, nn.Module]]) -> Iterator[None]:
    """Within it, the first batch norm of each pair normalises by the running statistics of the second."""
    before = [(norm, norm.training, [getattr(norm, name) for name in _STATISTICS]) for norm, _ in pairs]
    for norm, other in pairs:
        norm.eval()
        for name in _STATISTICS:
            setattr(norm, name, getattr(other, name))
    yield
    for norm, training, values in before:
        norm.train(training)
        for name, value in zip(_STATISTICS, values, strict=True):
            setattr(norm, name, value)


@loss_function.register
def _(objective: TWINS, student: nn.Module, parents: Mapping[str, nn.Module]) -> Loss:
    theirs = dict(parents["source"].named_modules())
    pairs = [
        (module, theirs[name])
        for name, module in student.named_modules()
        if isinstance(module, _Norm) and isinstance(theirs.get(name), _Norm)
    ]
    if not pairs:
        raise RobbenchError("TWINS: expected a network with batch norm in its kept blocks, got one without")

    def loss(batch: Batch) -> tuple[Tensor, Tensor]:
        half = len(batch.labels) // 2
        logits = student(batch.attacked[half:])
        value = F.cross_entropy(logits.float(), batch.labels[half:])
        with statistics_of(pairs):
            frozen = student(batch.attacked[:half])
        value = value + objective.weight * F.cross_entropy(frozen.float(), batch.labels[:half])
        return value, torch.cat([frozen, logits])

    return Loss(loss)
