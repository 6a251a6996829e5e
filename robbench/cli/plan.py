"""``robbench plan``: what a suite will cost on this machine."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, adapted_studies, add_places, add_study

if TYPE_CHECKING:
    from robbench.spec import Study


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser("plan", help="what a suite will cost on this machine: passes and time, stage by stage")
    add_study(parser)
    add_places(parser)
    parser.add_argument(
        "--no-calibration", action="store_true", help="passes only: do not time the networks on this machine"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print a table for every study of the file."""
    for study in adapted_studies(options):
        _print_plan(study, options.suite.partition("::")[2], options)
    return 0


def _print_plan(study: Study, item: str, options: argparse.Namespace) -> None:
    from robbench.machine.environment import choose_device
    from robbench.planning.calibration import measured_speeds
    from robbench.planning.plan import lines, of_item, plan
    from robbench.record import BUSY
    from robbench.stages import tasks_of
    from robbench.stages.context import RunContext
    from robbench.stages.graph import finished_records
    from robbench.store import Store

    stages = of_item(plan(study, options.data), study, item)
    context = RunContext(store=Store(options.store), data=options.data, device=choose_device(options.device))
    finished = finished_records(tasks_of(study), context) if options.store.is_dir() else {}
    done = {task.name for task in finished}
    left = [stage for stage in stages if stage.name not in done]
    speeds, busy = ({}, 0.0) if options.no_calibration else measured_speeds(left, context.device)
    print(f"study {study.name}")
    print("\n".join(lines(stages, speeds, done)))
    if busy > BUSY:
        print(f"measured on a busy machine, {busy:.0%} of the time waiting for a core: an idle one takes less")
