"""``robbench plan``: what a suite will cost on this machine."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, add_places
from robbench.errors import unknown
from robbench.spec.command_line import adapt, names, parse_datasets
from robbench.spec.suite_files import read_studies

if TYPE_CHECKING:
    from robbench.spec import Study


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser("plan", help="what a suite will cost on this machine: passes and time, stage by stage")
    parser.add_argument("suite", metavar="SUITE", help="a suite file, or one item of it (FILE::test[MODEL])")
    parser.add_argument(
        "--dataset", action="append", default=[], metavar="NAME=OTHER", help="on other data (repeatable)"
    )
    parser.add_argument("--protocol", choices=("sound", "thesis"))
    parser.add_argument("--seeds", type=int, metavar="N", help="seeds 0 to N-1")
    parser.add_argument("--quick", action="store_true", help="at the quick scale")
    add_places(parser)
    parser.add_argument(
        "--no-calibration", action="store_true", help="passes only: do not time the networks on this machine"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Print a table for every study of the file."""
    path, _, item = options.suite.partition("::")
    datasets, studies = parse_datasets("--dataset", options.dataset), read_studies(Path(path))
    known = {name for study in studies for name in names(study)}
    for name in datasets:
        if name not in known:
            raise unknown("dataset of the suite", name, known)
    for declared in studies:
        study = adapt(declared, protocol=options.protocol, datasets=datasets, seeds=options.seeds, quick=options.quick)
        _print_plan(study, item, options)
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
