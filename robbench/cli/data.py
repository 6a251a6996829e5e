"""``robbench data``: prepare a data set, and check it."""

from __future__ import annotations

import argparse

from robbench.cli.options import Commands, add_data


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser("data", help="prepare a data set as <DIR>/<name>.npz, and check it")
    parser.add_argument("name", help="mnist, emnist, cifar10, cifar100, or a file of your own")
    add_data(parser)
    parser.add_argument("--download", action="store_true", help="let torchvision download it")
    return parser


def run(options: argparse.Namespace) -> int:
    """Prepare the file where it is missing, and print what is in it."""
    from robbench.data import prepare, read_npz

    path = prepare(options.name, folder=options.data, download=options.download)
    data = read_npz(path, options.name)
    print(
        f"{path}: {len(data.train):,} training and {len(data.test):,} test images of "
        f"{'×'.join(map(str, data.shape))}, {len(data.classes)} classes, sha256 {data.fingerprint[:12]}"
    )
    return 0
