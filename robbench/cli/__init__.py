"""The ``robbench`` command: render, compare, verify, plan, export and look things up. What runs stages is pytest."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from robbench.cli import cluster, compare, data, export, history, importing, plan, report, verify
from robbench.cli import list as listing
from robbench.errors import RobbenchError
from robbench.report.plain_text import ERRORS
from robbench.spec.suite_files import find_code_in, project_of

VERBS = (report, history, compare, verify, plan, export, listing, data, importing, cluster)
"""One module a verb: ``add_parser`` declares its options, ``run`` runs it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 1 if a comparison or proof fails, and for nothing else; 2 if it could not run; 3 if unproven; 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none, and takes every character
            stream.reconfigure(errors=ERRORS)
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
    find_code_in(here := Path.cwd(), project_of(here))
    try:
        status: int = options.run(options)
    except RobbenchError as error:
        print(f"robbench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("robbench: interrupted", file=sys.stderr)
        return 130
    except Exception:  # of a user's network, or a mistake here: Python's own status would be 1
        traceback.print_exc()
        return 2
    return status
