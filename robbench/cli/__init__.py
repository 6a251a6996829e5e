"""The ``robbench`` command: render, compare, verify, plan, export and look things up. What runs stages is pytest."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from robbench.cli import compare, data, export, plan, report, verify
from robbench.cli import list as listing
from robbench.errors import RobbenchError
from robbench.spec.suite_files import find_code_in

VERBS = (report, compare, verify, plan, export, listing, data)
"""One module a verb: ``add_parser`` declares its options, ``run`` runs it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb; returns 0, 1 if a comparison or proof fails, 2 for bad input, 3 if unproven, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="robbench", description="Robustness transfer of image classifiers. Stages are run by `pytest -m suite`."
    )
    parser.add_argument("--version", action="version", version=f"robbench {version('robbench')}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for verb in VERBS:
        verb.add_parser(commands).set_defaults(run=verb.run)
    options = parser.parse_args(arguments)
    if "run" not in options:
        parser.print_help()
        return 2
    find_code_in(Path.cwd())
    try:
        status: int = options.run(options)
    except RobbenchError as error:
        print(f"robbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("robbench: interrupted", file=sys.stderr)
        return 130
    return status
