"""``robbench plan``: what suites will cost on this machine."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from robbench.cli.options import Commands, adapted_studies, add_changes, add_json, add_places
from robbench.errors import RobbenchError

if TYPE_CHECKING:
    from robbench.planning.plan import PlannedStage
    from robbench.spec import Study


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "plan",
        help="what suites will cost on this machine: passes and time, stage by stage",
        epilog="example: robbench plan suites/test_mine.py suites/test_other.py -k 'cnn7 and TL'",
    )
    parser.add_argument(
        "suites", nargs="+", metavar="SUITE", help="a suite file, or one item of it (FILE::test[MODEL]); repeatable"
    )
    parser.add_argument("-k", metavar="EXPRESSION", help="only the items that pytest selects by it, and what they need")
    add_changes(parser)
    add_places(parser)
    parser.add_argument(
        "--no-calibration", action="store_true", help="passes only: do not time the networks on this machine"
    )
    add_json(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Print a table for every study of the files."""
    plans = []
    for suite in options.suites:
        file, _, item = suite.partition("::")
        items = [item] if options.k is None else _selected(suite, options)
        planned = [(study, _stages(study, items, options)) for study in adapted_studies(options, file)]
        plans += [_plan(study, stages, options) for study, stages in planned if stages]
    if options.json:
        print(json.dumps([plan for plan, _ in plans]))
    else:
        print("\n".join(text for _, text in plans))
    return 0


def _selected(suite: str, options: argparse.Namespace) -> list[str]:
    """The items of a suite that pytest selects: what follows ``FILE::``, each.

    Raises:
        RobbenchError: pytest selects none, or fails.
    """
    given = [f"--robbench-dataset={pair}" for pair in options.dataset] + ["--robbench-quick"] * options.quick
    given += [f"--robbench-seeds={options.seeds}"] if options.seeds else []
    given += [f"--robbench-protocol={options.protocol}"] if options.protocol else []
    given += [f"--robbench-data={options.data}", "-p", "no:cacheprovider", "--collect-only", "-q"]
    command = [sys.executable, "-m", "pytest", "-m", "suite", "-k", options.k, *given, suite]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    items = [line.partition("::")[2] for line in done.stdout.splitlines() if "::" in line]
    if done.returncode or not items:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise RobbenchError(f"plan -k: expected items of {suite} like {options.k!r}: {said[-1] if said else 'none'}")
    return items


def _stages(study: Study, items: Sequence[str], options: argparse.Namespace) -> tuple[PlannedStage, ...]:
    """The stages of a study that these items run or need, in order; of a selection, those of other studies left out."""
    from robbench.planning.plan import of_item, plan

    stages, wanted, others = plan(study, options.data), set[str](), list[RobbenchError]()
    for item in items:
        try:
            wanted |= {stage.name for stage in of_item(stages, study, item)}
        except RobbenchError as error:  # with -k, an item of another study of the file
            others.append(error)
    if others and options.k is None:
        raise others[0]
    return tuple(stage for stage in stages if stage.name in wanted)


def _plan(study: Study, stages: tuple[PlannedStage, ...], options: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """A study's plan as values and as a table."""
    from robbench.machine.environment import choose_device
    from robbench.planning.calibration import measured_speeds
    from robbench.planning.plan import lines
    from robbench.record import BUSY
    from robbench.stages import tasks_of
    from robbench.stages.context import RunContext
    from robbench.stages.graph import finished_records
    from robbench.store import Store

    context = RunContext(store=Store(options.store), data=options.data, device=choose_device(options.device))
    finished = finished_records(tasks_of(study), context) if options.store.is_dir() else {}
    done = {task.name for task in finished}
    left = [stage for stage in stages if stage.name not in done]
    speeds, busy = ({}, 0.0) if options.no_calibration else measured_speeds(left, context.device)
    rows = []
    for stage in stages:
        speed = speeds.get(stage.network) if stage.network else None
        rows.append(
            {
                "stage": stage.name,
                "forward": stage.work.forward,
                "backward": stage.work.backward,
                "seconds": stage.seconds(speed) if speed else None,
                "at_most": stage.bound,
                "done": stage.name in done,
            }
        )
    text = [f"study {study.name}", *lines(stages, speeds, done)]
    if busy > BUSY:
        text.append(f"measured on a busy machine, {busy:.0%} of the time waiting for a core: an idle one takes less")
    return {"study": study.name, "stages": rows}, "\n".join(text)
