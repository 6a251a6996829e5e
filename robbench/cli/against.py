"""``robbench against``: hold the working tree to a git revision, both run in turns on this machine."""

from __future__ import annotations

import argparse
import sys

from robbench.cli.compare import add_tolerances, given_tolerances, print_verdicts
from robbench.cli.options import Commands, add_data, path


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "against",
        help="run the suites at a git revision and in the working tree, and compare; exit status 1 on a regression",
        usage="%(prog)s [OPTIONS] REV [-- PYTEST_ARGUMENT ...]",
        epilog="example: robbench against origin/main --rounds 1 -- suites/test_mine.py -k TL3",
    )
    parser.add_argument("revision", metavar="REV", help="the git revision to hold the working tree to")
    parser.set_defaults(arguments=[])
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of each side (default: 2)")
    add_data(parser)
    parser.add_argument("-o", "--output", type=path, metavar="DIR", help="keep both sides' report bundles there")
    add_tolerances(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Run both sides and print the verdicts; 1 where one of them fails."""
    from robbench.cli.revisions import against_base

    given = given_tolerances(options)
    verdicts = against_base(
        options.revision,
        options.arguments,
        given=given,
        rounds=options.rounds,
        data=options.data,
        keep=options.output,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )
    return print_verdicts(verdicts, given, options)
