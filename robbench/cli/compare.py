"""``robbench compare``: hold the records of a bundle to baselines."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from robbench.cli.options import Commands, add_json, path
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
        help="hold the records of a report to baselines; exit status 1 on a regression",
        epilog="example: robbench compare reports/embedded --pstar 0.1",
    )
    parser.add_argument("bundle", type=path, metavar="RECORDS", help="a bundle's folder or records.json")
    parser.add_argument("--baselines", type=path, default=Path("baselines"), metavar="DIR", help="default: baselines")
    add_tolerances(parser)
    return parser


def add_tolerances(parser: argparse.ArgumentParser) -> None:
    """How large a loss may be, and what is printed."""
    for name, text in TOLERANCES.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            metavar="X",
            help=f"tolerance, instead of the suite's own: {text}",
        )
    parser.add_argument("--all", action="store_true", help="list the figures within tolerance, too")
    add_json(parser)


def given_tolerances(options: argparse.Namespace) -> dict[str, float]:
    """The tolerances of the command line; a RobbenchError for one that is out of range."""
    given = {name: getattr(options, name) for name in TOLERANCES if getattr(options, name) is not None}
    Tolerances.of(given)
    return given


def run(options: argparse.Namespace) -> int:
    """Print the verdicts; 1 where one of them fails."""
    given = given_tolerances(options)
    return print_verdicts(_verdicts(options, given), given, options)


def print_verdicts(verdicts: Sequence[Verdict], given: Mapping[str, float], options: argparse.Namespace) -> int:
    """Print verdicts and their sum, or all of them as JSON; 1 where one of them fails."""
    failing = sum(verdict.fails for verdict in verdicts)
    if options.json:
        print(json.dumps([{**msgspec.to_builtins(verdict), "fails": verdict.fails} for verdict in verdicts]))
        return int(failing > 0)
    _print(verdicts, everything=options.all)
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


def _verdicts(options: argparse.Namespace, given: Mapping[str, float]) -> list[Verdict]:
    """Verdicts on a bundle's records; a stage that has a baseline but no record fails."""
    from robbench.report import read_bundle

    bundle, folder = options.bundle, options.baselines
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
