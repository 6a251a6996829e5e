"""Faults of a model that can be found before anything is trained."""

from __future__ import annotations

from dataclasses import dataclass

from robbench.data import split
from robbench.errors import RobbenchError, require
from robbench.models import blocks, build, network_of_checkpoint, share_alike, try_network
from robbench.models.network import COLOUR, bring_to, sizes
from robbench.spec import Checkpoint, Model
from robbench.spec.catalogue import block_names, own_module
from robbench.stages.context import RunContext
from robbench.stages.networks import built_sha256, layout

PRETRAINED = 0.5
"""Share of the weights that are the same under two seeds, from which a network counts as one that is not drawn."""


@dataclass(frozen=True, kw_only=True)
class Tried:
    """What came out of trying a network."""

    blocks: int
    alike: float
    """Share of its weights that are the same under two seeds; looked at where the function is a user's own."""
    remarks: tuple[str, ...]
    """What a reader of the results must know."""


def check(model: Model, context: RunContext) -> None:
    """Try store, data, shapes, network and checkpoint of a model and of the models that it needs, each once.

    Raises:
        RobbenchError: the first fault.
    """
    if "" not in context.seen:
        context.store.check_writable()
        context.seen.add("")
    for parent in model.parents().values():
        check(parent, context)
    if model in context.seen:
        return
    data, dataset = context.images(model.dataset), model.dataset
    try:
        split(len(data.train), validation=dataset.validation, seed=dataset.seed)
    except RobbenchError as error:
        raise RobbenchError(f"dataset {dataset.name!r} {error}") from error
    try:
        if model.checkpoint is not None:
            classes, download = len(data.classes), context.download
            network_of_checkpoint(model.architecture, model.checkpoint, data.shape, classes, download=download)
        elif model.recipe is None:
            built_sha256(model, data)
        if isinstance(model.source, Checkpoint):
            network_of_checkpoint(model.architecture, model.source, data.shape, download=context.download)
        fits = model.checkpoint is not None or dataset.mean is None or len(dataset.mean) in (1, data.shape[0])
        require(fits, "mean", f"{data.shape[0]} values, one for each channel", dataset.mean)
        tried = _tried(model, context)
    except RobbenchError as error:
        raise RobbenchError(f"{model.id}: {error}") from error
    if model.recipe is not None and tried.alike >= PRETRAINED:
        raise RobbenchError(
            f"{model.id}: expected {model.architecture} to draw its weights anew, but {tried.alike:.0%} of them are the same "
            "under two seeds: it returns trained weights, or sets a seed of its own; give trained weights as a Checkpoint"
        )
    if model.transfer is not None:
        require(model.transfer.k <= tried.blocks, "k", f"1…{tried.blocks} for {model.architecture}", model.transfer.k)
    context.seen.add(model)


def remarks(model: Model, context: RunContext) -> tuple[str, ...]:
    """What trying a model's network found that a reader of its results must know."""
    tried = context.tried.get(_kind(model, context))
    return tried.remarks if tried else ()


def _kind(model: Model, context: RunContext) -> tuple[object, ...]:
    data = context.images(model.dataset)
    return model.architecture, layout(model, context), data.shape, len(data.classes)


def _tried(model: Model, context: RunContext) -> Tried:
    """What comes out of trying a model's network; told at once where it is new."""
    kind = _kind(model, context)
    if kind not in context.tried:
        context.tried[kind] = tried = _try(model, context)
        for remark in tried.remarks:
            context.announce(remark)
    return context.tried[kind]


def _try(model: Model, context: RunContext) -> Tried:
    data, shape, architecture = context.images(model.dataset), layout(model, context), model.architecture
    alike, found = 0.0, list[str]()
    network = build(architecture, classes=len(data.classes), shape=shape, seed=0)
    if own_module(architecture):
        alike = share_alike(network, build(architecture, classes=len(data.classes), shape=shape, seed=1))
    if block_names(architecture) is None or data.shape != shape:
        grey = shape[0] == COLOUR and data.shape[0] == 1  # which the network sees in three channels
        try:
            found = try_network(network, (COLOUR, *data.shape[1:]) if grey else data.shape)
        except RobbenchError as error:
            if data.shape == shape or model.source is None:
                raise
            how = "make them grey" if data.shape[0] > shape[0] else "give them that size"
            name = model.source.id if isinstance(model.source, Model) else repr(model.source.path)
            takes = f"images that {name} takes, {sizes(shape)}, got {sizes(data.shape)}; {how}: {bring_to(shape)}"
            raise RobbenchError(f"expected {takes} ({error})") from error
    if 0 < alike < PRETRAINED:
        found.append(f"{alike:.0%} of the weights of {architecture} are the same under every seed")
    return Tried(blocks=len(blocks(network)), alike=alike, remarks=tuple(found))
