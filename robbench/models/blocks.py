"""Blocks: the parts of a network that transfer keeps or retrains, first to last; the head is the last."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from robbench.models.network import Network
from robbench.spec.catalogue import block_names


@dataclass(frozen=True)
class Block:
    """A named part of a network."""

    name: str
    modules: tuple[nn.Module, ...]
    loose: tuple[nn.Parameter, ...] = ()
    """Parameters of the block that belong to none of its modules, such as a vision transformer's class token."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Every parameter of the block once."""
        found = (parameter for module in self.modules for parameter in module.parameters())
        yield from dict.fromkeys((*found, *self.loose))


def blocks(network: Network) -> tuple[Block, ...]:
    """The blocks of ``network``, first to last.

    Those of the study's architectures have the names of the catalogue; the last batch norm of a wide ResNet is in none.
    Those of a timm network are timm's coarse parameter groups and the head. Those of any other network are the children
    of its body that have parameters; of a body that wraps another network, that network's. A dropout belongs to the block
    that it feeds.
    """
    names = block_names(network.architecture)
    if names is not None:
        return _named_blocks(network.body, names)
    timm = network.architecture.startswith("timm:")
    return _found_blocks(network.body, _timm_groups(network) if timm else _child_groups(network.body))


def _named_blocks(body: nn.Module, names: Sequence[str]) -> tuple[Block, ...]:
    found: list[Block] = []
    dropouts: list[nn.Module] = []
    for name, child in body.named_children():
        if name in names:
            found.append(Block(name, (*dropouts, child)))
            dropouts = []
        elif isinstance(child, nn.Dropout):
            dropouts.append(child)
    return tuple(found)


def unwrapped(body: nn.Module) -> tuple[str, nn.Module]:
    """The network that is the only child with parameters of those around it, and its path in ``body``: ``model.``."""
    path, inside = "", body
    while True:
        children = _with_parameters(inside)
        if len(children) != 1 or not _with_parameters(next(iter(children.values()))):
            return path, inside
        ((name, inside),) = children.items()
        path += f"{name}."


def _with_parameters(module: nn.Module) -> dict[str, nn.Module]:
    return {name: child for name, child in module.named_children() if any(True for _ in child.parameters())}


def _child_groups(body: nn.Module) -> dict[str, list[str]]:
    """Parameter names by the child that has them; the parameters of no child go with the first child."""
    path, inside = unwrapped(body)
    children = _with_parameters(inside)
    groups: dict[str, list[str]] = {name: [] for name in list(children)[:1] or [""]}
    first = next(iter(groups))
    for name, _ in body.named_parameters():
        child = name.removeprefix(path).partition(".")[0] if name.startswith(path) else first
        groups.setdefault(child if child in children else first, []).append(name)
    return groups


def _timm_groups(network: Network) -> dict[str, list[str]]:
    """Parameter names by timm's coarse groups, and the head; parameters in no group join the last one."""
    # timm takes seconds to import, and only its own networks need it.
    from timm.models import group_parameters

    body = network.body
    names = [name for name, _ in body.named_parameters()]
    head = [name for name in names if name.startswith(f"{network.head}.")]
    groups: dict[str, list[str]] = {}
    try:
        matcher = body.group_matcher(coarse=True)  # type: ignore[operator]
    except (AttributeError, AssertionError):  # a few have none, or none that is coarse
        children = _child_groups(body).items()
        groups = {name: members for name, members in children if name not in ("norm", network.head.split(".")[0])}
    else:
        for _, members in sorted(group_parameters(body, matcher).items()):
            if features := [name for name in members if name not in head and _label(matcher, name) is not None]:
                label = _label(matcher, features[0]) or ""
                groups[label if label not in groups else f"{label}#{len(groups)}"] = features
    matched = {*head, *(name for members in groups.values() for name in members)}
    latest = next(reversed(groups), "stem")
    groups[latest] = groups.get(latest, []) + [name for name in names if name not in matched]
    return {**groups, network.head: head}


def _label(matcher: object, name: str) -> str | None:
    """The name of a parameter's group, such as ``stem``, ``layer1`` or ``blocks.11``; None if it is in no group."""
    if not isinstance(matcher, dict):  # a function, which puts every parameter in a group
        return name.partition(".")[0]
    for group, rules in matcher.items():
        for rule in [(rules,)] if isinstance(rules, str) else rules or []:
            found = re.match(rule[0], name)
            if found:
                return found[0].strip(".") if found.groups() else group
    return None


def _found_blocks(body: nn.Module, groups: dict[str, list[str]]) -> tuple[Block, ...]:
    """The largest modules whose parameters all belong to one group, and the parameters in between, as blocks."""
    named = dict(body.named_parameters())
    owner = {id(named[name]): group for group, names in groups.items() for name in names}
    modules: dict[str, list[nn.Module]] = defaultdict(list)
    loose: dict[str, list[nn.Parameter]] = defaultdict(list)
    pending: list[nn.Module] = []  # modules without state go with the block that they feed: the next one
    latest = next(iter(groups))

    def visit(module: nn.Module) -> None:
        nonlocal pending, latest
        for parameter in module.parameters(recurse=False):
            loose[owner[id(parameter)]].append(parameter)
        for child in module.children():
            owners = {owner[id(parameter)] for parameter in child.parameters()}
            if len(owners) == 1:
                latest = owners.pop()
                modules[latest] += [*pending, child]
                pending = []
            elif not owners and any(True for _ in child.buffers()):  # a batch norm without parameters
                modules[latest].append(child)
            elif not owners:
                pending.append(child)
            else:
                visit(child)

    visit(body)
    modules[latest] += pending
    return tuple(Block(name, tuple(modules[name]), tuple(loose[name])) for name, group in groups.items() if group)
