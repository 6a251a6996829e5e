"""``robbench report``: render a bundle again, or make one of several."""

from __future__ import annotations

import argparse

from robbench.cli.options import Commands, path
from robbench.errors import RobbenchError


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser("report", help="render a report bundle from records, or one from several")
    parser.add_argument("bundles", nargs="+", type=path, metavar="RECORDS", help="a bundle's folder or records.json")
    parser.add_argument(
        "-o", "--output", type=path, metavar="DIR", help="folder of the new bundle (default: where the only one lies)"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the bundle, and print the path of its report."""
    from robbench.report import merge, read_bundle, write_bundle

    first, folder = options.bundles[0], options.output
    bundles = [read_bundle(bundle) for bundle in options.bundles]
    if folder is None:
        if len(bundles) > 1:
            raise RobbenchError("report: expected --output DIR for a bundle made of several, got none")
        folder = first if first.is_dir() else first.parent
    print(write_bundle(folder, merge(bundles) if len(bundles) > 1 else bundles[0]))
    return 0
