"""``robbench compare``: hold records to baselines, or the working tree to a revision."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from robbench.cli.options import Commands, add_data, path
from robbench.errors import RobbenchError
from robbench.gate.baselines import read_baseline
from robbench.gate.verdicts import Tolerances, Verdict, compare, declared, levels, plain_verdict

TOLERANCES = {
    "pstar": "share of the median p*",
    "accuracy": "share",
    "seconds": "factor",
    "seconds_floor": "seconds",
}


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "compare",
        help="hold records to baselines, or the working tree to a revision; exit status 1 on a regression",
        usage="%(prog)s [TOLERANCES] [--all] RECORDS [--baselines DIR]\n"
        "       %(prog)s [TOLERANCES] [--all] --base REV [--rounds N] [--data DIR] [-o DIR] [-- PYTEST_ARGUMENT ...]",
    )
    parser.add_argument(
        "arguments",
        nargs="*",
        metavar="RECORDS | PYTEST_ARGUMENT",
        help="a bundle's records.json or folder; with --base, what pytest gets: -- suites/test_mine.py -k TL3",
    )
    parser.add_argument("--baselines", type=path, default=Path("baselines"), metavar="DIR", help="default: baselines")
    parser.add_argument("--base", metavar="REV", help="the git revision to hold the working tree to")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="runs of each side (default: 2)")
    add_data(parser)
    parser.add_argument("-o", "--output", type=path, metavar="DIR", help="keep both sides' report bundles there")
    for name, text in TOLERANCES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            metavar="X",
            help=f"tolerance, instead of the suite's own: {text}",
        )
    parser.add_argument("--all", action="store_true", help="list the figures within tolerance, too")
    return parser


def run(options: argparse.Namespace) -> int:
    """Print the verdicts; 1 where one of them fails."""
    given = {name: getattr(options, name) for name in TOLERANCES if getattr(options, name) is not None}
    Tolerances.of(given)  # out of range: before anything runs
    verdicts = _to_revision(options, given) if options.base else _to_baselines(options, given)
    _print(verdicts, everything=options.all)
    failing = sum(verdict.fails for verdict in verdicts)
    if not failing:
        print(f"no regression: {sum(verdict.mark == '=' for verdict in verdicts)} of {len(verdicts)} as before")
        return 0
    held = " ".join(f"--{name.replace('_', '-')} {value:g}" for name, value in given.items())
    what = f"{held}, and else to what" if held else "what"
    print(f"{failing} of {len(verdicts)} figures fail, held to {what} their suites declare")
    return 1


def _print(verdicts: Sequence[Verdict], *, everything: bool) -> None:
    """A line for each verdict, what fails first; one line for all stages whose seconds have no baseline."""
    untimed = Counter(verdict.message for verdict in verdicts if (verdict.figure, verdict.mark) == ("seconds", "x"))
    untimed = Counter({message: stages for message, stages in untimed.items() if stages > 1})
    for verdict in sorted(verdicts, key=lambda verdict: not verdict.fails):
        if verdict.message not in untimed and (everything or verdict.mark != "="):
            print(f"{verdict.mark:7}  {verdict.suite}/{verdict.case}.{verdict.stage}: {verdict.message}")
    for message, stages in untimed.items():
        print(f"{'x':7}  {stages} stages: {message}")


def _to_revision(options: argparse.Namespace, given: Mapping[str, float]) -> list[Verdict]:
    from robbench.cli.revisions import against_base

    return against_base(
        options.base,
        options.arguments,
        given=given,
        rounds=options.rounds,
        data=options.data,
        keep=options.output,
        say=lambda line: print(line, file=sys.stderr, flush=True),
    )


def _to_baselines(options: argparse.Namespace, given: Mapping[str, float]) -> list[Verdict]:
    """Verdicts on a bundle's records; a stage that has a baseline but no record fails."""
    from robbench.report import read_bundle

    if len(options.arguments) != 1:
        got = " ".join(options.arguments) or "neither"
        raise RobbenchError(f"compare: expected one bundle, or --base REV, got {got}")
    bundle, folder = Path(options.arguments[0]), options.baselines
    found = read_bundle(bundle)
    records = found.records
    if not records:
        raise RobbenchError(f"compare: expected a bundle with records, {bundle} has none")
    if any(verdict.mark == "quick" for verdict in found.verdicts):
        raise RobbenchError(f"compare: expected a run at full scale, {bundle} is of --robbench-quick: it means nothing")
    if not folder.is_dir():
        raise RobbenchError(f"compare: expected a folder of baselines, {folder} is none; see --baselines")
    verdicts, level = [], levels(records)
    for record in records:
        baseline = read_baseline(folder, record.suite, record.case, record.stage)
        if baseline is None:
            verdicts.append(plain_verdict(record.suite, record.name, "missing", f"no baseline in {folder}"))
        else:
            verdicts += compare(record, baseline, declared(found.tolerances, record, given), level[record.suite])
    measured = {(record.suite, record.name) for record in records}
    return verdicts + [
        plain_verdict(suite, file.stem, "error", f"has a baseline, but no record in {bundle}")
        for suite in sorted({record.suite for record in records})
        for file in sorted((folder / suite).glob("*.json"))
        if (suite, file.stem) not in measured
    ]
