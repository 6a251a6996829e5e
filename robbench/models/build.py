"""From an architecture's name to a newly initialised network."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Any

import torch
from torch import nn

from robbench.errors import RobbenchError, require
from robbench.machine.memory import must_fit_whole, ran_out
from robbench.models import plain
from robbench.models.blocks import unwrapped
from robbench.models.network import Network, Normalise, bring_to, seeded, sizes
from robbench.models.residual import RESNET_STAGES, preact_resnet18, published_wide_resnet, resnet, wide_resnet
from robbench.models.trial import answer
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, block_names, wrn_size
from robbench.spec.own_code import remember


def build(
    architecture: str,
    *,
    classes: int,
    shape: tuple[int, int, int],
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    seed: int = 0,
) -> Network:
    """A new network on the CPU for images of ``shape`` (C, H, W), with ``mean`` and ``std`` of its input normalisation.

    The architecture is a name of :data:`robbench.spec.catalogue.ARCHITECTURES`; ``wrnD_W`` or ``wideresnetD_W``;
    ``timm:NAME``, without its pretrained weights; or ``package.module:function``. The function is called as ``function(classes=…, shape=…)`` and
    returns a module that ends in an ``nn.Linear``. It may draw weights from the global generators of torch, Python or
    numpy: the same ``seed`` gives the same weights.

    Raises:
        RobbenchError: the architecture is unknown, does not take such images or classes, or does not fit into memory.
    """
    names = block_names(architecture)
    require(mean is None or len(mean) in (1, shape[0]), "mean", f"{shape[0]} values, one for each channel", mean)
    with seeded(seed), must_fit_whole(f"{architecture} does not fit", "choose a smaller network"):
        if names is not None:
            body, head = _named(architecture, classes, shape), names[-1]
        else:
            found = _from_timm if architecture.startswith("timm:") else _from_function
            body, head = found(architecture, classes, shape)
            with torch.no_grad():  # a network that does not fit is found before any stage begins
                answer(body.eval(), architecture, shape, classes)
            body.train()
    normalise = Normalise(mean, std, shape[0])
    return Network(body, architecture=architecture, shape=shape, head=head, normalise=normalise)


def _named(architecture: str, classes: int, shape: tuple[int, int, int]) -> nn.Module:
    if wide := wrn_size(architecture):
        if architecture.startswith("wrn"):
            return wide_resnet(*wide, channels=shape[0], classes=classes)
        swish = architecture.endswith("_swish")
        return published_wide_resnet(*wide, channels=shape[0], classes=classes, swish=swish)
    if architecture.startswith("preactresnet18"):
        form = architecture.removeprefix("preactresnet18")
        return preact_resnet18(channels=shape[0], classes=classes, norm=form == "_bn", raw=form == "_raw")
    if architecture in RESNET_STAGES:
        units, bottleneck = RESNET_STAGES[architecture]
        return resnet(units, bottleneck=bottleneck, channels=shape[0], classes=classes)
    takes = ARCHITECTURE_SHAPES[architecture]
    if shape != takes:
        raise RobbenchError(f"{architecture} takes {sizes(takes)} images, got {sizes(shape)}; {bring_to(takes)}")
    body: nn.Module = getattr(plain, architecture)(classes)
    return body


def _from_timm(architecture: str, classes: int, shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    """A timm network and the path of its classifier."""
    # timm takes seconds to import, and only its own networks need it.
    import timm

    name = architecture.removeprefix("timm:")
    # Names such as "hf-hub:owner/model" are turned away too: timm would download what they describe.
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3, cutoff=0.5) or ["one of timm.list_models()"]
        raise RobbenchError(f"unknown timm network {name!r}; did you mean {' or '.join(near)}?")
    body = make_timm(architecture, shape, pretrained=False, num_classes=classes)
    classifier = body.get_classifier()
    inside = classifier.modules() if isinstance(classifier, nn.Module) else ()
    linear = [module for module in inside if isinstance(module, nn.Linear)]
    require(len(linear) == 1, architecture, "one nn.Linear as its classifier", classifier)
    return body, next(path for path, module in body.named_modules() if module is linear[0])


def make_timm(architecture: str, shape: tuple[int, int, int], **options: Any) -> Any:
    """A network of timm's for images of ``shape``; a RobbenchError if it cannot be built."""
    import timm

    name = architecture.removeprefix("timm:")
    try:
        try:
            return timm.create_model(name, img_size=shape[1:], in_chans=shape[0], **options)
        except TypeError as error:  # convolutional networks have no such argument
            if "img_size" not in str(error):
                raise
            return timm.create_model(name, in_chans=shape[0], **options)
    except Exception as error:
        raise RobbenchError(f"{architecture} cannot be built for {sizes(shape)} images: {error!r}") from error


def _from_function(architecture: str, classes: int, shape: tuple[int, int, int]) -> tuple[nn.Module, str]:
    """The module that the user's function returns, and the path of the last nn.Linear in its last block."""
    module, _, function = architecture.partition(":")
    try:
        make = getattr(import_module(module), function)
        remember(module)
    except Exception as error:
        tried = f"from {module} import {function}"
        raise RobbenchError(f"architecture {architecture!r}: tried `{tried}`, got {error!r}") from error
    try:
        body = make(classes=classes, shape=shape)
    except Exception as error:
        if ran_out(error):
            raise
        raise RobbenchError(f"{architecture}: called with classes={classes}, shape={shape}, got {error!r}") from error
    require(isinstance(body, nn.Module), architecture, "an nn.Module from the function", type(body).__name__)
    path, inside = unwrapped(body)
    children = [name for name, child in inside.named_children() if any(True for _ in child.parameters())]
    last = path + children[-1] if children else ""
    linear = [
        name for name, m in body.named_modules() if isinstance(m, nn.Linear) and f"{name}.".startswith(f"{last}.")
    ]
    if not linear or body.get_submodule(linear[-1]).out_features != classes:
        expected = f"an nn.Linear with {classes} outputs at the end of its last child with parameters"
        raise RobbenchError(f"{architecture}: expected {expected}, got {body.get_submodule(last)}")
    return body, linear[-1]
