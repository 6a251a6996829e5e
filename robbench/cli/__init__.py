"""The ``robbench`` command: begin, look things up, plan, compare, verify, render, export. What runs stages is pytest."""

from __future__ import annotations

import argparse
import io
import re
import sys
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from robbench.cli import against, cluster, compare, data, doctor, export, history, importing, init, plan, report, verify
from robbench.cli import list as listing
from robbench.errors import RobbenchError, unknown
from robbench.report.plain_text import ERRORS
from robbench.spec.suite_files import find_code_in, project_of

VERBS = (init, doctor, listing, data, importing, plan, report, compare, against, history, verify, export, cluster)
"""One module a verb: ``add_parser`` declares its options, ``run`` runs it."""


def new_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = argparse.ArgumentParser(
        prog="robbench",
        description="Robustness transfer of image classifiers. Stages are run by `pytest -m suite`, whose options "
        "(`--robbench-dataset`, …) are taken here under both names.",
        epilog="example: robbench init && pytest -m suite --robbench-update",
    )
    parser.add_argument("--version", action="version", version=f"robbench {version('robbench')}")
    commands = parser.add_subparsers(metavar="COMMAND")
    for verb in VERBS:
        verb.add_parser(commands).set_defaults(run=verb.run)
    return parser


def verbs_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """The parser of each verb, by its name."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return dict(commands.choices)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """The options; ``--robbench-dataset`` is ``--dataset``, likewise all others, and what follows ``--`` is pytest's."""
    parser = new_parser()
    end = arguments.index("--") if "--" in arguments else len(arguments)
    given, rest = [re.sub(r"^--robbench-", "--", word) for word in arguments[:end]], [*arguments[end + 1 :]]
    commands = verbs_of(parser)
    if given and not given[0].startswith("-") and given[0] not in commands:
        parser.error(str(unknown("command", given[0], commands)))
    options = parser.parse_args(given)
    if rest and "arguments" not in options:
        parser.error(f"expected nothing after --, got {' '.join(rest)}: only `robbench against` hands it to pytest")
    return argparse.Namespace(**{**vars(options), "arguments": rest})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb.

    Returns:
        0; 1 if a comparison or proof fails, and for nothing else; 2 if it could not run; 3 if unproven; 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a notebook's is none, and takes every character
            stream.reconfigure(errors=ERRORS)
    options = parse(sys.argv[1:] if arguments is None else arguments)
    if "run" not in options:
        new_parser().print_help()
        return 0
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
