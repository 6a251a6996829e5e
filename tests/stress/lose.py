"""Lose workers, the scheduler and the network of a cluster at random moments, and compare with one process.

A scheduler and two workers of one thread run on this machine, and see nothing of the suite's store: weights, records
and saved states travel through the scheduler. In each round a suite of two studies (conventional and adversarial
training, two transfers, both searches of p*, which are divided into parts) runs in an empty folder, and a random worker
is killed by SIGKILL at a random moment; another one takes its place. In other rounds the line from the scheduler to a
worker or to the run is cut for ten seconds: what is sent waits, or the connections are dropped (then the worker ends,
and another one comes). In others the scheduler is killed: the run must end with the sentence that names the command that
goes on, and that command must end as one process does. Weights (bytes), training history, p*, robust accuracies and
numbers of passes of every stage must be those of the process that was left alone, and nothing that was finished before
the scheduler was lost may be made again.

    python tests/stress/lose.py --workers 20 --cuts 5 --schedulers 5
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import project

sys.path.append(str(Path(__file__).parents[1] / "support"))
from line import Line

CUT = 10.0
"""Seconds."""

HANGS = 900.0
"""Seconds without an end after which a run is taken to hang, and killed."""

NOTHING_SHARED = """

import robbench.stages.robustness_stage
import robbench.store.store

robbench.store.store.Store.identity = lambda store: "seen by no worker"
robbench.stages.robustness_stage.PART = 10
"""


class Machines:
    """A scheduler and its workers, as processes of their own."""

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._count = folder, 0
        self.begin(workers)

    def begin(self, workers: int) -> None:
        """Start a scheduler, wait until it listens, and start its workers."""
        self._count += 1
        file = self._folder / f"scheduler{self._count}.json"
        options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
        self.scheduler = self._start("scheduler", *options)
        while not file.exists():
            time.sleep(0.1)
        self._scheduler = json.loads(file.read_text())["address"]
        self.line = Line(self._scheduler)
        self.lines = [Line(self._scheduler) for _ in range(workers)]
        self.workers = [self._worker(line) for line in self.lines]

    def replace(self, number: int) -> None:
        """Kill a worker, and start another one."""
        self.workers[number].kill()
        self.workers[number].wait()
        self.workers[number] = self._worker(self.lines[number])

    def _worker(self, line: Line) -> subprocess.Popen[bytes]:
        options = ("--nthreads", "1", "--no-nanny", "--memory-limit", "0", "--no-dashboard", "--host", "127.0.0.1")
        return self._start("worker", line.address, *options, "--local-directory", str(self._folder))

    def end(self) -> None:
        """Kill all."""
        for process in (self.scheduler, *self.workers):
            process.kill()
            process.wait()
        for line in (self.line, *self.lines):
            line.close()

    def _start(self, *command: str) -> subprocess.Popen[bytes]:
        with (self._folder / "dask.log").open("ab") as log:
            call = [
                sys.executable,
                "-c",
                f"from distributed.cli import dask_scheduler, dask_worker; import sys; dask_{command[0]}.main()",
                *command[1:],
            ]
            return subprocess.Popen(call, stdout=log, stderr=log, cwd=project.ROOT)


def write(folder: Path, **size: Any) -> Path:
    """The kill test's project, whose workers see nothing of its store."""
    project.write(folder, **size)
    with (folder / "conftest.py").open("a") as file:
        file.write(NOTHING_SHARED)
    return folder


def run(folder: Path, machines: Machines, lose: str, numbers: random.Random, longest: float) -> list[str]:
    """Run a project on the machines, one of which is lost; what happened."""
    item, said = folder / "item.txt", []
    item.unlink(missing_ok=True)
    process = project.start(folder, "--robbench-scheduler", machines.line.address)
    while process.is_alive() and not item.exists():
        time.sleep(0.05)
    life, begun = numbers.uniform(0, longest), time.monotonic()
    process.join(life)
    if process.exitcode is None:
        what = f"{lose} killed"
        if lose == "worker":
            machines.replace(numbers.randrange(len(machines.workers)))
        elif lose == "cut":
            what = cut(machines, numbers)
        else:
            machines.end()
        said.append(f"{what} after {life:.1f} s, {len(project.stages(folder))} stages finished")
    process.join(HANGS)
    hangs = process.exitcode is None
    if hangs:
        process.kill()
        process.join()
    said.append(f"ended after {time.monotonic() - begun:.1f} s")
    said += ["it was killed, since it hung"] if hangs else []
    said.append(f"exit status {process.exitcode}")
    return said


def cut(machines: Machines, numbers: random.Random) -> str:
    """Cut the line of a worker or of the run for a while; what was done."""
    number, dropped = numbers.randrange(-1, len(machines.workers)), numbers.random() < 0.5
    line = machines.line if number < 0 else machines.lines[number]
    line.cut(CUT, dropped=dropped)
    if dropped and number >= 0:
        machines.replace(number)
    return f"line to {'the run' if number < 0 else 'a worker'} {'dropped' if dropped else 'cut'} for {CUT:.0f} s"


def finished(folder: Path) -> dict[str, int]:
    """When each finished stage was written."""
    return {str(path): path.stat().st_mtime_ns for path in (folder / ".robbench" / "store").glob("*/*/stage.json")}


def main() -> int:
    """Exit status 1 where a stage of any round differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=20, metavar="N", help="rounds that lose a worker (default: 20)")
    parser.add_argument("--cuts", type=int, default=5, metavar="N", help="that cut the network (default: 5)")
    parser.add_argument("--schedulers", type=int, default=5, metavar="N", help="that lose the scheduler (default: 5)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    numbers, faults = random.Random(options.seed), 0
    size = {"epochs": 8, "images": 600, "steps": 4, "attacked": 24, "drawn": False}
    with tempfile.TemporaryDirectory() as name:
        alone = project.write(Path(name) / "alone", **size)
        process = project.start(alone)
        process.join()
        expected = project.stages(alone)
        print(f"one process: exit status {process.exitcode}, {len(expected)} stages", flush=True)
        machines = Machines(Path(name), 2)
        whole = write(Path(name) / "whole", **size)
        said = run(whole, machines, "nothing", numbers, 1e6)
        longest = float(said[0].split()[2])
        print(f"two workers, none lost: {'; '.join(said)}", flush=True)
        rounds = ["worker"] * options.workers + ["cut"] * options.cuts + ["scheduler"] * options.schedulers
        number = 0
        while rounds:
            number, lose = number + 1, rounds[0]
            folder = write(Path(name) / str(number), **size)
            said, found = run(folder, machines, lose, numbers, longest), list[str]()
            if " after " in said[0] and not said[0].startswith("ended"):
                del rounds[0]
            else:  # it came to its end before
                longest = min(longest, float(said[0].split()[2]))
            if said[-1] != "exit status 0" and lose == "scheduler":
                log, kept = (folder / "log.txt").read_text(), finished(folder)
                found += (
                    []
                    if "is gone; with one there again, or the address of another, this goes on with what is left: "
                    "pytest" in log
                    else [f"no sentence: {log[-2000:]}"]
                )
                machines.begin(2)
                said += run(folder, machines, "worker", numbers, 1e6)
                found += [f"made again: {path}" for path, time in kept.items() if finished(folder).get(path) != time]
            found += [] if said[-1] == "exit status 0" else [(folder / "log.txt").read_text()[-2000:]]
            found += project.differences(expected, project.stages(folder))
            faults += len(found)
            same = f"{len(expected)} stages: weights, histories, p*, robust accuracies and passes identical"
            print(
                f"round {number}: {'; '.join(said)}", *(f"DIFFERENT {line}" for line in found), sep="\n  ", flush=True
            )
            if not found:
                print(f"  {same}", flush=True)
        machines.end()
    print(f"{faults} differences" if faults else f"no difference in {number} rounds")
    return 1 if faults or not expected else 0


if __name__ == "__main__":
    raise SystemExit(main())
