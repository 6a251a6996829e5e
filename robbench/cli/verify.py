"""``robbench verify``: prove the counterexamples behind a bundle."""

from __future__ import annotations

import argparse
import json
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, add_json, add_places, path
from robbench.errors import RobbenchError

if TYPE_CHECKING:
    from robbench.verify.proof import Finding, Mark


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "verify",
        help="check a bundle against store and data, every counterexample included; exit status 1 on a problem, 3 where "
        "records are missing or unproven",
        epilog="example: robbench verify reports/mine --code mypackage.nets",
    )
    parser.add_argument("bundle", type=path, metavar="BUNDLE", help="a bundle's folder, or its records.json")
    parser.add_argument(
        "--code",
        action="append",
        default=[],
        metavar="MODULE",
        help="a module of your own networks that may be imported and run: mypackage.nets (repeatable)",
    )
    add_places(parser)
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print a line for every finding, and a summary, or JSON; 1 on a problem, 3 where something is unproven."""
    from robbench.machine.environment import choose_device
    from robbench.stages.context import RunContext
    from robbench.store import Store
    from robbench.verify.verification import verify

    if not options.store.is_dir():
        raise RobbenchError(f"verify: expected the store that the run left, {options.store} is none; see --store")
    context = RunContext(store=Store(options.store), data=options.data, device=choose_device(options.device))
    findings = []
    for finding in verify(options.bundle, context, options.code):
        findings.append(finding)
        if not options.json:
            said = f"{finding.message}; {finding.advice}" if finding.advice else finding.message
            print(f"{finding.mark:8}  {finding.name}: {said}", flush=True)
    marks = Counter(finding.mark for finding in findings)
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        _sum_up(findings, marks)
    return 1 if marks["problem"] else 3 if marks["unproven"] or marks["missing"] else 0


def _sum_up(findings: list[Finding], marks: Counter[Mark]) -> None:
    """Print what was found in all."""
    proven = sum(finding.proven for finding in findings)
    smaller = sum(finding.smaller for finding in findings)
    checked = {finding.name for finding in findings if finding.mark != "missing"}
    nearer = f" ({smaller:,} of them smaller than their p*)" if smaller else ""
    parts = [f"{len(checked):,} records", f"{proven:,} counterexamples proven{nearer}"]
    parts += [f"{marks['unproven']} records unproven"] if marks["unproven"] else []
    parts += [f"{marks['missing']} records missing"] if marks["missing"] else []
    parts += [f"{marks['remark']} remarks"] if marks["remark"] else []
    print(", ".join([*parts, f"{marks['problem']} problems"]))
    if marks["unproven"]:
        what = f"{marks['unproven']} records were not proven in full" if proven else "nothing was proven"
        print("; ".join([what, *dict.fromkeys(finding.advice for finding in findings if finding.advice)]))
