"""Options that several verbs have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
"""What a verb adds its parser to."""

DATA, STORE = Path(".robbench/data"), Path(".robbench/store")


def path(text: str) -> Path:
    """A file or folder; not an empty text, as of an unset variable."""
    if not text:
        raise argparse.ArgumentTypeError("expected a file or folder, got ''")
    return Path(text)


def add_data(parser: argparse.ArgumentParser) -> None:
    """Where the data sets are."""
    parser.add_argument("--data", type=path, default=DATA, metavar="DIR", help=f"default: {DATA}")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Where data and stages are, and what to compute on."""
    add_data(parser)
    parser.add_argument("--store", type=path, default=STORE, metavar="DIR", help=f"default: {STORE}")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="default: auto")
