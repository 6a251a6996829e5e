"""Options that several verbs have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

from robbench.errors import unknown
from robbench.spec import Study
from robbench.spec.command_line import adapt, names, parse_datasets
from robbench.spec.suite_files import read_studies

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


def add_json(parser: argparse.ArgumentParser) -> None:
    """Whether to print for programs."""
    parser.add_argument("--json", action="store_true", help="print JSON")


def add_changes(parser: argparse.ArgumentParser) -> None:
    """The options that change a suite's studies as those of a run do."""
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=OTHER", help="on other data (repeatable)"
    )
    parser.add_argument("--protocol", choices=("sound", "thesis"))
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--quick", action="store_true", help="at the quick scale")


def adapted_studies(options: argparse.Namespace, file: str) -> list[Study]:
    """The file's studies as the options want them; a RobbenchError for a dataset that none of them has."""
    datasets, studies = parse_datasets("--dataset", options.dataset), read_studies(Path(file))
    known = {name for study in studies for name in names(study)}
    for name in datasets:
        if name not in known:
            raise unknown("dataset of the suite", name, known)
    changes = {"protocol": options.protocol, "datasets": datasets, "seeds": options.seeds, "quick": options.quick}
    return [adapt(study, **changes) for study in studies]
