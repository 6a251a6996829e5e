"""``robbench report``: render a bundle again, or make one of several."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, path
from robbench.errors import RobbenchError

if TYPE_CHECKING:
    from robbench.report import Bundle


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "report",
        help="render a report bundle from records, or one from several",
        epilog="example: robbench report reports/mine --summary",
    )
    parser.add_argument("bundles", nargs="+", type=path, metavar="RECORDS", help="a bundle's folder or records.json")
    parser.add_argument(
        "-o", "--output", type=path, metavar="DIR", help="folder of the new bundle (default: where the only one lies)"
    )
    parser.add_argument(
        "--beside", action="store_true", help="no bundle, but a page with the same models of several side by side"
    )
    parser.add_argument(
        "--summary",
        action="store_true",
        help="no bundle, but a short text in Markdown for a pull request or a CI summary",
    )
    parser.add_argument(
        "--predictions",
        action="store_true",
        help="no bundle, but a table of the predicted and the found drop points of all, in Markdown",
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the bundle or the page, and print its path."""
    from robbench.report import merge, read_bundle, summary, write_bundle

    first, folder = options.bundles[0], options.output
    bundles = [read_bundle(bundle) for bundle in options.bundles]
    if options.summary:
        print("\n".join(map(summary, bundles)), end="")
        return 0
    if options.predictions:
        _predictions(bundles)
        return 0
    if options.beside:
        return _beside(options, dict(zip(_names(options.bundles), bundles, strict=True)))
    if folder is None:
        if len(bundles) > 1:
            raise RobbenchError("report: expected --output DIR for a bundle made of several, got none")
        folder = first if first.is_dir() else first.parent
    print(write_bundle(folder, merge(bundles) if len(bundles) > 1 else bundles[0]))
    return 0


def _predictions(bundles: Sequence[Bundle]) -> None:
    from robbench.report.markdown import table
    from robbench.report.prediction import predictor_tables
    from robbench.report.rows import group_records

    groups = [group for bundle in bundles for group in group_records(bundle.records)]
    print("\n\n".join(map(table, predictor_tables(groups))))


def _names(bundles: Sequence[Path]) -> list[str]:
    """A name for each bundle: as much of its path as tells it from the others."""
    folders = [(each if each.is_dir() else each.parent).resolve() for each in bundles]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]) for folder in folders]
        if len(set(names)) == len(names):
            return names
    raise RobbenchError("report --beside: expected different bundles, got one twice")


def _beside(options: argparse.Namespace, bundles: Mapping[str, Bundle]) -> int:
    from robbench.report.series import beside, series_html
    from robbench.store.files import write_atomically

    if len(bundles) < 2 or options.output is None:
        raise RobbenchError("report --beside: expected two bundles or more, and --output DIR for the page")
    path = options.output / "beside.html"
    write_atomically(path, series_html(f"{len(bundles)} reports side by side", *beside(bundles)).encode())
    print(path)
    return 0
