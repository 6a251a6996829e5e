"""``robbench import``: weights from elsewhere, matched to an architecture, tried, and written as robbench's own."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, add_data, path
from robbench.errors import RobbenchError, require
from robbench.spec import Checkpoint, Dataset
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, TWINS
from robbench.spec.command_line import pictures

if TYPE_CHECKING:
    from robbench.data import Data
    from robbench.models import Network
    from robbench.models.checkpoints import Loaded

Values = tuple[float, ...]


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "import",
        help="match weights from elsewhere to an architecture, and try them",
        epilog="example: robbench import robust.pt --architecture resnet18 --dataset cifar10 -o robust.safetensors",
    )
    parser.add_argument("file", help="of safetensors or of torch.save; or timm:NAME (timm:resnet18.a1_in1k)")
    parser.add_argument("--architecture", metavar="NAME", help="left out: prints which named ones the file fits")
    parser.add_argument(
        "--dataset", metavar="NAME", help="whose test images the clean accuracy is taken on; folder:PATH"
    )
    add_data(parser)
    parser.add_argument(
        "--shape", type=_shape, metavar="C,H,W", help="of the images, without a data set or of pictures"
    )
    parser.add_argument(
        "--mean", type=_numbers, metavar="R,G,B", help="of the normalisation trained with; 0: plain pixels"
    )
    parser.add_argument("--std", type=_numbers, metavar="R,G,B", help="likewise; 1: plain pixels")
    parser.add_argument("--part", metavar="WORD", help="which of several networks in the file: a word before its names")
    parser.add_argument("--download", action="store_true", help="let timm's weights, or the data set, be downloaded")
    parser.add_argument(
        "-o", "--output", type=path, metavar="FILE", help="write a .safetensors file with robbench's names"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print what went where, and the clean accuracy; write the file that is asked for."""
    output: Path | None = options.output
    require(output is None or output.suffix == ".safetensors", "--output", "a .safetensors file", options.output)
    checkpoint = Checkpoint(options.file, mean=options.mean, std=options.std, part=options.part)
    if options.architecture is None:
        return _print_fitting(checkpoint)
    data = _images(options)
    loaded, candidates = _load(options.architecture, checkpoint, options, data)
    for line in _lines(loaded):
        print(line)
    if data is not None:
        _print_accuracies(loaded.network, options.architecture, candidates, data)
        if twin := TWINS.get(options.architecture):
            _print_accuracies(_load(twin, checkpoint, options, data)[0].network, twin, candidates, data)
    if len(candidates) != 1:
        raise RobbenchError(
            "import: expected the normalisation that the weights were trained with; say --mean and --std"
        )
    if output is not None:
        _write(output, loaded.network, candidates[0])
        print(f"written: {output}, for Checkpoint({str(output)!r}) of {options.architecture!r}")
    return 0


def _load(
    architecture: str, checkpoint: Checkpoint, options: argparse.Namespace, data: Data | None
) -> tuple[Loaded, list[tuple[Values, Values]]]:
    """The network, and every normalisation that it may have been trained with: one where that is known."""
    from robbench.models.checkpoints import network_of_checkpoint

    shape = data.shape if data else options.shape or ARCHITECTURE_SHAPES.get(architecture, (3, 32, 32))
    known = checkpoint.mean is not None or checkpoint.timm is not None
    loaded = network_of_checkpoint(
        architecture,
        checkpoint if known else replace(checkpoint, mean=(0.0,), std=(1.0,)),
        shape,
        len(data.classes) if data else None,
        download=options.download,
    )
    values = loaded.network.normalise.values
    if known and values is not None:
        return loaded, [values]
    if loaded.found.normalisations:
        return loaded, [(each.mean, each.std) for each in loaded.found.normalisations]
    usual = Dataset(name=data.name) if data else None
    guesses: list[tuple[Values, Values]] = [((0.0,), (1.0,))]
    if usual is not None and usual.mean is not None and usual.std is not None:
        guesses.append((usual.mean, usual.std))
    imagenet = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return loaded, [*guesses, *([imagenet] if loaded.network.shape[0] == len(imagenet[0]) else []), ((0.5,), (0.5,))]


def _lines(loaded: Loaded) -> list[str]:
    """What went where, a line for every layer; then what was left out."""
    layers: dict[tuple[str, str], list[str]] = {}
    for own, name in loaded.found.names.items():
        layer, _, tensor = own.rpartition(".")
        layers.setdefault((layer, name.rpartition(".")[0]), []).append(tensor)
    rows = [(layer, f"{name}: {', '.join(tensors)}") for (layer, name), tensors in layers.items()]
    rows += [("normalisation", " and ".join(each.names)) for each in loaded.found.normalisations]
    width, left = max(len(layer) for layer, _ in rows), loaded.found.left_out
    counted = f"{len(loaded.found.names)} tensors taken, {len(left)} left out{': ' if left else ''}{_some(left)}"
    return [*(f"{layer:{width}}  ← {where}" for layer, where in rows), counted, *loaded.notes[1:]]


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:4]) + (", …" if names[4:] else "")


def _print_accuracies(network: Network, architecture: str, candidates: list[tuple[Values, Values]], data: Data) -> None:
    """Clean accuracy on the test images, behind every normalisation that it may be."""
    from robbench.models import Normalise
    from robbench.models.checkpoints import shown
    from robbench.stages.training_stage import count_right

    for mean, std in candidates:
        network.normalise = Normalise(mean, std, network.shape[0])
        right = count_right(network, data.test, "test", [])
        share = f"clean accuracy {right.share:.1%} of {right.total:,} test images of {data.name}"
        print(f"{architecture} behind {shown(mean, std)}: {share}")


def _write(output: Path, network: Network, normalisation: tuple[Values, Values]) -> None:
    from safetensors.torch import save
    from torch import tensor

    from robbench.models import weights
    from robbench.store.files import write_atomically

    pair = zip(("mean", "std"), normalisation, strict=True)
    write_atomically(output, save({**weights(network), **{f"normalise.{name}": tensor(v) for name, v in pair}}))


def _print_fitting(checkpoint: Checkpoint) -> int:
    from robbench.models.checkpoints import fitting

    names = fitting(checkpoint)
    found = ", ".join(names) or "none of the named architectures; --architecture timm:NAME or package.module:function"
    print(f"{checkpoint.path} fits {found}")
    return 0 if names else 2


def _images(options: argparse.Namespace) -> Data | None:
    from robbench.data import load

    if options.dataset is None:
        return None
    channels, side, _ = options.shape or ARCHITECTURE_SHAPES.get(options.architecture, (3, 224, 224))
    dataset = pictures(options.dataset, size=side, channels=channels) or Dataset(name=options.dataset)
    return load(dataset, options.data, download=options.download)


def _numbers(text: str) -> Values:
    return tuple(map(float, text.split(",")))


def _shape(text: str) -> tuple[int, ...]:
    sizes = tuple(map(int, text.split(",")))
    require(len(sizes) == 3 and min(sizes) > 0, "--shape", "C,H,W (3,32,32)", text)
    return sizes
