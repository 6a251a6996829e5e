"""From a source model to a target model that is ready to be retrained (TL#k of the thesis, section 2.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import torch
from torch import nn

from robbench.errors import require
from robbench.models import Block, Network, Normalise, blocks, build, put_head, replace_head


@dataclass(frozen=True)
class Transferred:
    """A network for the target, of which the last ``k`` blocks start anew."""

    network: Network
    k: int

    @property
    def retrained(self) -> tuple[Block, ...]:
        """The last blocks, first to last."""
        return blocks(self.network)[-self.k :]

    @property
    def kept(self) -> tuple[nn.Module, ...]:
        """The largest modules that share nothing with the retrained blocks; in eval mode while they are frozen.

        Looked up when asked for, because :func:`robbench.models.place` replaces layers.
        """
        inside = {module for block in self.retrained for top in block.modules for module in top.modules()}
        return tuple(_outside(self.network.body, inside))


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
    """A copy of ``source`` for the target: a new head, the last ``k`` blocks as a new network has them, the others kept.

    What belongs to no block (a wide ResNet's last batch norm) is kept.

    Args:
        source: left as it is; the copy stays on its device.
        k: number of blocks to retrain, the head among them, from 1 to all of them.
        classes: of the target.
        head: a name of :data:`robbench.models.HEADS`.
        kept: ``frozen`` clears ``requires_grad`` of everything outside the retrained blocks, ``finetuned`` sets it.
        mean: of the target's input normalisation, with ``std``; None for none.
        std: with ``mean``.
        seed: of the new values, which differ from those of a build with the same seed.

    Raises:
        RobbenchError: ``k`` or ``head`` is none of the above.
    """
    count = len(blocks(source))
    require(1 <= k <= count, "k", f"1…{count} for {source.architecture}", k)

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
    network.requires_grad_(kept == "finetuned")
    for old, new in zip(blocks(network)[-k:], blocks(fresh)[-k:], strict=True):
        _copy_values(old, new)
        for parameter in old.parameters():
            parameter.requires_grad_(True)
    return Transferred(network, k)


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
    """Groups for a torch optimiser, none of them empty: all trainable parameters, ``scale`` the factor on their rate.

    It is 1 for the retrained blocks.
    """
    retrained = [parameter for block in transferred.retrained for parameter in block.parameters()]
    anew = set(retrained)
    kept = [p for p in transferred.network.parameters() if p.requires_grad and p not in anew]
    groups = [{"params": retrained, "scale": 1.0}, {"params": kept, "scale": scale}]
    return [group for group in groups if group["params"]]
