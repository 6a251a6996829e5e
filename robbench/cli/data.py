"""``robbench data``: prepare a data set, and check it."""

from __future__ import annotations

import argparse

from robbench.cli.options import Commands, add_data


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "data",
        help="prepare a data set as <DIR>/<name>.npz, and check it; or check pictures",
        epilog="example: robbench data folder:photos --size 224",
    )
    named = "mnist, emnist, cifar10, cifar100, or a file of your own; folder:PATH or hub:OWNER/NAME for pictures"
    parser.add_argument("name", help=named)
    add_data(parser)
    parser.add_argument("--size", type=int, metavar="PIXELS", help="side that pictures are brought to (default: 224)")
    parser.add_argument("--skip-broken", action="store_true", help="leave out pictures that cannot be read")
    parser.add_argument("--download", action="store_true", help="let torchvision download it")
    return parser


def run(options: argparse.Namespace) -> int:
    """Prepare the file where it is missing, or decode every picture once, and print what is in it."""
    from robbench.data import load, prepare, read_npz
    from robbench.spec.command_line import pictures
    from robbench.store.locks import to_stderr

    path, beside = options.name, options.data / options.name
    named = f"folder:{beside}" if options.size and beside.is_dir() else options.name
    if (dataset := pictures(named, size=options.size or 224, skip_broken=options.skip_broken)) is not None:
        data = load(dataset, options.data, download=options.download, announce=to_stderr)
    else:
        path = prepare(options.name, folder=options.data, download=options.download)
        data = read_npz(path, options.name)
    print(
        f"{path}: {len(data.train):,} training and {len(data.test):,} test images of "
        f"{'×'.join(map(str, data.shape))}, {len(data.classes)} classes, sha256 {data.fingerprint[:12]}"
    )
    return 0
