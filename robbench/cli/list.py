"""``robbench list``: what robbench knows by name."""

from __future__ import annotations

import argparse
import json

from robbench.cli.options import Commands, add_json
from robbench.errors import require
from robbench.spec.catalogue import ARCHITECTURES, DATASETS, block_names


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "list",
        help="what robbench knows by name; with an architecture, its blocks",
        epilog="example: robbench list timm:resnet26 --shape 3,224,224",
    )
    parser.add_argument("architecture", nargs="?", help="cnn7, timm:resnet26, package.module:function, …")
    parser.add_argument("--shape", metavar="C,H,W", help="image shape for timm and own networks (3,32,32)")
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print data sets and architectures, or what each k of an architecture retrains."""
    if options.architecture is None:
        _list_all(as_json=options.json)
        return 0
    names, parameters = block_names(options.architecture), None
    if names is None or options.shape is not None:
        from robbench import models

        network = models.build(options.architecture, classes=10, shape=_shape(options.shape or "3,32,32"))
        parameters = models.parameter_count(network)
        names = tuple(block.name for block in models.blocks(network))
    if options.json:
        print(json.dumps({"architecture": options.architecture, "blocks": names, "parameters": parameters}))
        return 0
    if parameters is not None:
        print(f"{options.architecture}: {parameters:,} parameters with 10 classes")
    for k, name in zip(range(len(names), 0, -1), names, strict=True):
        print(f"  TL#{k:<3} retrains {name} and what follows")
    return 0


def _list_all(*, as_json: bool) -> None:
    if as_json:
        datasets = {name: {"classes": facts.classes, "shape": facts.shape} for name, facts in DATASETS.items()}
        print(json.dumps({"datasets": datasets, "architectures": ARCHITECTURES}))
        return
    print("data sets:")
    for name, facts in DATASETS.items():
        print(f"  {name:12} {facts.classes:3} classes, {'×'.join(map(str, facts.shape))}")
    print("  <name>       any <data dir>/<name>.npz\narchitectures (blocks first to last):")
    for name, blocks in ARCHITECTURES.items():
        print(f"  {name:21} K = {len(blocks)}: {', '.join(blocks)}")
    print("  wrnD_W, wideresnetD_W: K = 5, depth D = 6n + 4, width W\n  timm:NAME, package.module:function")


def _shape(text: str) -> tuple[int, int, int]:
    sizes = [int(size) if size.isdecimal() else 0 for size in text.split(",")]
    require(len(sizes) == 3 and min(sizes) > 0, "--shape", "C,H,W (3,32,32)", text)
    channels, height, width = sizes
    return channels, height, width
