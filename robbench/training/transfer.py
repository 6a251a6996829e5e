"""From a source model to a target model that is ready to be retrained (TL#k of the thesis, section 2.5)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from robbench.errors import RobbenchError
from robbench.models import Block, Network, Normalise, blocks, build, put_head, replace_head


@dataclass(frozen=True)
class Transferred:
    """A network for the target, of which the last blocks start anew."""

    network: Network
    kept: tuple[nn.Module, ...]
    """The modules outside the retrained blocks, which stay in eval mode while they are frozen."""
    retrained: tuple[str, ...]
    """Names of the retrained blocks, first to last."""

    def retrained_parameters(self) -> tuple[nn.Parameter, ...]:
        """The parameters of the retrained blocks."""
        chosen = blocks(self.network)[-len(self.retrained) :]
        return tuple(parameter for block in chosen for parameter in block.parameters())


def transfer(
    source: Network,
    *,
    k: int,
    classes: int,
    head: str = "linear",
    kept: str = "frozen",
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int,
) -> Transferred:
    """A copy of ``source`` for the target: a new head, the last ``k`` blocks initialised anew, the others kept.

    A block that is initialised anew gets the parameters and batch-norm statistics of a new
    :func:`robbench.models.build`. What belongs to no block (a wide ResNet's last batch norm) is kept.

    Args:
        source: left as it is; the copy stays on its device.
        k: number of blocks to retrain, the head among them, from 1 to all of them.
        classes: of the target.
        head: a name of :data:`robbench.models.HEADS`.
        kept: ``frozen`` clears ``requires_grad`` of everything outside the retrained blocks, ``finetuned`` sets it.
        mean: of the target's input normalisation; None for none.
        std: with ``mean``.
        seed: of the new values, which differ from those of a build with the same seed.

    Raises:
        RobbenchError: ``k``, ``classes`` or ``head`` is none of the above.
    """
    names = [block.name for block in blocks(source)]
    if not 1 <= k <= len(names):
        raise RobbenchError(f"k: expected 1…{len(names)} for {source.architecture}, got {k}")

    # A source of the same seed was trained from the values of that seed, so the new values need another one.
    seed = int.from_bytes(sha256(f"transfer {seed}".encode()).digest()[:7])
    fresh = build(source.architecture, classes=classes, shape=source.shape, seed=seed)
    if head != "linear":
        replace_head(fresh, classes, head, seed)

    network = deepcopy(source)
    like = network.head_layers[0].weight
    # The head comes from a build: an architecture's own linear layer may be normalised, with other tensors.
    put_head(network, fresh.body.get_submodule(fresh.head).to(like.device, like.dtype), classes)
    network.normalise = Normalise(mean, std).to(like.device)
    for old, new in zip(blocks(network)[-k:], blocks(fresh)[-k:], strict=True):
        _copy_values(old, new)

    retrained = blocks(network)[-k:]
    network.requires_grad_(kept == "finetuned")
    for parameter in (p for block in retrained for p in block.parameters()):
        parameter.requires_grad_(True)
    inside = {module for block in retrained for top in block.modules for module in top.modules()}
    return Transferred(network, tuple(_outside(network.body, inside)), tuple(names[-k:]))


def _copy_values(block: Block, new: Block) -> None:
    """Give ``block`` the parameters and buffers of ``new``."""
    for module, fresh in zip(block.modules, new.modules, strict=True):
        module.load_state_dict(fresh.state_dict())
    with torch.no_grad():
        for parameter, value in zip(block.loose, new.loose, strict=True):
            parameter.copy_(value)


def _outside(module: nn.Module, inside: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules under ``module`` that share nothing with ``inside``."""
    for child in module.children():
        if inside.isdisjoint(child.modules()):
            yield child
        else:
            yield from _outside(child, inside)


def parameter_groups(transferred: Transferred, scale: float) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: ``scale`` is the factor on the learning rate, 1 for the retrained parameters.

    Only parameters that require a gradient are in them, and no group is empty.
    """
    retrained = transferred.retrained_parameters()
    others = set(transferred.network.parameters()) - set(retrained)
    kept = [parameter for parameter in transferred.network.parameters() if parameter in others]
    groups = [
        {"params": [parameter for parameter in parameters if parameter.requires_grad], "scale": factor}
        for parameters, factor in ((retrained, 1.0), (kept, scale))
    ]
    return [group for group in groups if group["params"]]


def training_mode(network: nn.Module, frozen: Iterable[nn.Module] = ()) -> None:
    """Put the network in training mode, and its ``frozen`` modules in eval mode.

    The batch norms of frozen blocks thus keep the source's statistics, and their dropouts are idle.
    """
    network.train()
    for module in frozen:
        module.eval()
