"""From a source model to a target model that is ready to be retrained (TL#k of the thesis, section 2.5)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

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
        """The largest modules that share nothing with the retrained blocks; ask again after layers were replaced."""
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

    The head is one of :data:`robbench.models.HEADS`, and one of the k blocks. What belongs to no block (a wide ResNet's
    last batch norm) is kept. ``frozen``, ``critical`` and ``lora`` clear ``requires_grad`` of what is kept,
    ``finetuned`` and ``warm`` set it.
    ``mean`` and ``std`` are the target's input normalisation.

    Raises:
        RobbenchError: there is no such ``head``, or ``k`` is not from 1 to the number of blocks.
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
    network.normalise = Normalise(mean, std, source.shape[0]).to(like.device)
    network.requires_grad_(kept in ("finetuned", "warm"))
    for old, new in zip(blocks(network)[-k:], blocks(fresh)[-k:], strict=True):
        for module, values in zip(old.modules, new.modules, strict=True):
            module.load_state_dict(values.state_dict())
        for parameter, value in zip(old.loose, new.loose, strict=True):
            parameter.data.copy_(value)
        for parameter in old.parameters():
            parameter.requires_grad_(True)
    return Transferred(network, k)


def _outside(module: nn.Module, inside: set[nn.Module]) -> Iterator[nn.Module]:
    """The largest modules under ``module`` that share nothing with ``inside``."""
    for child in module.children():
        if inside.isdisjoint(child.modules()):
            yield child
        else:
            yield from _outside(child, inside)


def parameter_groups(transferred: Transferred, scale: float, alone: float = 0.0) -> list[dict[str, Any]]:
    """All trainable parameters in groups for a torch optimiser; ``scale`` is the factor on the rate of the kept blocks.

    With ``alone`` the retrained blocks learn alone for so many epochs, and then everything does at ``scale``.
    """
    retrained = [parameter for block in transferred.retrained for parameter in block.parameters()]
    anew = set(retrained)
    kept = [p for p in transferred.network.parameters() if p.requires_grad and p not in anew]
    groups: list[dict[str, Any]] = [{"params": retrained, "scale": 1.0}, {"params": kept, "scale": scale}]
    if alone:
        groups[0] |= {"scale": scale, "first": (alone, 1.0)}
        groups[1] |= {"first": (alone, 0.0)}
    return [group for group in groups if group["params"]]
