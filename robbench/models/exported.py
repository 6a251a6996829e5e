"""A trained network as a file by itself, and back: safetensors for torch, TorchScript and ONNX for other programs."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

import msgspec
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from robbench.errors import RobbenchError, require, unknown
from robbench.models.build import build
from robbench.models.heads import replace_head
from robbench.models.network import Network
from robbench.models.weights import load_weights, weights
from robbench.record import UNREADABLE, Struct
from robbench.spec.catalogue import own_module
from robbench.store.files import write_atomically

SAME = 1e-4
"""Share of the largest logit by which a traced network may differ from the original on other images."""


ONNX_SAME = 1e-5
"""By which logits of an ONNX file may differ from torch's: float32 reaches it for logits of ordinary size only, so of
larger ones than 1 it is a share of the largest."""

_Shape: TypeAlias = tuple[int, int, int]


class _Facts(Struct, frozen=True, kw_only=True):
    """What rebuilds a network, beside its weights."""

    architecture: str
    shape: tuple[int, int, int]
    classes: list[str]
    head: str
    mean: list[float] | None
    std: list[float] | None


def export_network(
    path: Path, network: Network, *, head: str, classes: Sequence[str], shape: _Shape | None = None
) -> None:
    """Write a network as its file's ending says: ``.safetensors``, ``.ts`` (TorchScript) or ``.onnx``.

    All three take (N, C, H, W) float32 images in [0, 1] and give (N, classes) logits; N may vary.

    Args:
        path: replaced if it is there.
        network: on the CPU, in plain layers.
        head: the kind of its head, a name of :data:`robbench.models.HEADS`.
        classes: their names, in the order of the logits.
        shape: (C, H, W) of the images, where the network sees grey ones in three channels; None: its own.

    Raises:
        RobbenchError: another ending, a network that cannot be traced, ONNX without its packages, a path not writable.
    """
    if path.suffix not in _FORMATS:
        raise unknown("ending of an exported model", path.suffix, _FORMATS)
    norm = network.normalise
    mean, std = (None if each is None else each.flatten().tolist() for each in (norm.mean, norm.std))
    facts = _Facts(
        architecture=network.architecture, shape=network.shape, classes=list(classes), head=head, mean=mean, std=std
    )
    write_atomically(path, _FORMATS[path.suffix](network.eval(), facts, shape or network.shape))


def load_model(path: str | Path, *, device: str | torch.device = "cpu", code: str | None = None) -> Network:
    """The network of a ``.safetensors`` file that ``robbench export`` wrote, in eval mode.

    It is an ``nn.Module`` that takes (N, C, H, W) float32 images in [0, 1], and gives (N, classes) float32 logits.
    It normalises by itself. ``class_names`` are the names of its logits, ``shape`` is (C, H, W).

    Args:
        path: of the file.
        device: where the network is put.
        code: the module of your own architecture (``mypackage.nets``), which is imported and run only if it is named.

    Raises:
        RobbenchError: no such file, not one of ``robbench export``, or the network's own code is not named.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts = msgspec.json.decode(file.metadata()["robbench"], type=_Facts)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    except (OSError, SafetensorError, TypeError, KeyError, *UNREADABLE) as error:
        raise RobbenchError(f"{str(path)!r}: expected a .safetensors file of `robbench export` ({error})") from error
    module = own_module(facts.architecture)
    named = f"code={module!r}, since {facts.architecture} builds the network and is imported and run for it"
    require(module in (None, code), str(path), named, code)
    classes = len(facts.classes)
    network = build(facts.architecture, classes=classes, shape=facts.shape, mean=facts.mean, std=facts.std)
    if facts.head != "linear":
        replace_head(network, classes, facts.head)
    load_weights(network, tensors, str(path))
    network.class_names = tuple(facts.classes)
    return network.to(device).eval()


def _safetensors(network: Network, facts: _Facts, shape: _Shape) -> bytes:
    return save(weights(network), metadata={"robbench": msgspec.json.encode(facts).decode()})


def _torchscript(network: Network, facts: _Facts, shape: _Shape) -> bytes:
    """Traced on two images, and held to the original on three others."""
    pair, three = torch.rand(2, *shape), torch.rand(3, *shape)
    data = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        try:
            traced = torch.jit.trace(network, pair)  # type: ignore[no-untyped-call]
            torch.jit.save(traced, data)
            got, expected = traced(three), network(three)
        except Exception as error:  # whatever the network's code raises
            raise RobbenchError(f"{facts.architecture} cannot be traced: {error}") from error
    apart = float((got - expected).abs().max() / expected.abs().max())
    require(
        apart <= SAME, f"{facts.architecture} as TorchScript", "the network's own logits", f"{apart:.1g} of them off"
    )
    return data.getvalue()


def _onnx(network: Network, facts: _Facts, shape: _Shape) -> bytes:
    return as_onnx(network, shape)


def as_onnx(network: Network, shape: _Shape | None = None) -> bytes:
    """A network on the CPU in plain layers as ONNX: (N, C, H, W) float32 images in [0, 1] to (N, classes) logits.

    Raises:
        RobbenchError: packages are missing, the network cannot be traced, or the file's logits are too far off.
    """
    shape, name = shape or network.shape, network.architecture
    try:
        import onnxscript  # noqa: F401 - torch writes ONNX with it
        from onnx.reference import ReferenceEvaluator
    except ImportError as error:
        raise RobbenchError(
            f"ONNX needs packages that are not installed: pip install 'robbench[onnx]' ({error})"
        ) from error
    try:
        program = torch.onnx.export(
            network,
            (torch.rand(2, *shape),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("images", min=1)},),
            verbose=False,
        )
        written = bytes(program.model_proto.SerializeToString())  # type: ignore[union-attr]
    except Exception as error:  # whatever torch or the network's code raises
        raise RobbenchError(f"{name} cannot be written as ONNX: {error}") from error
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0))
    (got,) = ReferenceEvaluator(written).run(None, {"images": images.numpy()})
    with torch.no_grad():
        expected = network(images)
    apart = float((torch.from_numpy(got) - expected).abs().max() / expected.abs().max().clamp(min=1))
    require(apart <= ONNX_SAME, f"{name} as ONNX", f"torch's logits to {ONNX_SAME:g}", f"{apart:.1g} off")
    return written


_FORMATS: dict[str, Callable[[Network, _Facts, _Shape], bytes]] = {
    ".safetensors": _safetensors,
    ".ts": _torchscript,
    ".onnx": _onnx,
}
