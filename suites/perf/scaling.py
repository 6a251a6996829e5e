"""How much faster a suite is with more workers, and what a stage costs beyond its own seconds, on CPUs.

    make scaling    # the embedded suite with 1 and 2 workers of one thread
    make scaling ARGS="--workers 1 --threads 2 --beside 2"    # one of two threads, beside two busy processes

Run ``make suite`` once before: it keeps the images that it draws. Each run begins with an empty store. The same command
is then run again, and makes nothing: what it takes is start and report. What the first run took beside the seconds that
its stages recorded is divided by their number; what remains of it without start and report is the overhead of a stage.
Other options go to pytest (``--robbench-quick``).

Threads that wait passively (``OMP_WAIT_POLICY=PASSIVE``) are not asked for, since they gained nothing: with ``--workers 1
--threads 2 --robbench-quick --robbench-seeds 2`` on two cores of an AMD EPYC, stages took 15.7 s against 14.8 s on the idle
machine, and 26.7 s against 27.1 s with ``--beside 2``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import msgspec

from robbench.record import Seconds

BUSY = "while True: pass"


def seconds_of_run(suite: str, folder: Path, workers: int, threads: int, options: Sequence[str]) -> float:
    """Wall seconds of a run with workers that keeps its store and report in a folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-m", "suite", suite, "--robbench-device=cpu"]
    command += [f"--robbench-{each}={folder / each}" for each in ("store", "report", "baselines")]
    command += [f"--robbench-workers={workers}", *options]
    command += [] if "--robbench-quick" in options else ["--robbench-update"]
    begun = time.perf_counter()
    done = subprocess.run(
        command,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    took = time.perf_counter() - begun
    if done.returncode:
        raise SystemExit(f"pytest failed ({done.returncode}):\n{done.stdout[-3000:]}{done.stderr[-1000:]}")
    return took


def seconds_of_stages(folder: Path) -> list[float]:
    """What each finished stage of a store recorded, all parts of it together."""
    files = (folder / "store").glob("*/*/stage.json")
    return [msgspec.convert(json.loads(each.read_bytes())["record"]["seconds"], Seconds).total for each in files]


def main() -> None:
    """Print a row for each number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="suites/test_embedded.py")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], metavar="N")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="of each worker (default: 1)")
    parser.add_argument("--beside", type=int, default=0, metavar="N", help="busy processes beside (default: 0)")
    options, others = parser.parse_known_args()
    print(
        "| workers | stages | wall, s | start and report, s | stages, s | beside, s a stage | overhead, s a stage | faster |"
    )
    print("| --: | --: | --: | --: | --: | --: | --: | --: |")
    first = 0.0
    for workers in options.workers:
        busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(options.beside)]
        try:
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                run = partial(seconds_of_run, options.suite, folder, workers, options.threads, others)
                wall, again = run(), run()
                stages = seconds_of_stages(folder)
        finally:
            for process in busy:
                process.kill()
        first = first or wall
        beside = [f"{seconds / len(stages):.2f}" for seconds in (wall - sum(stages), wall - again - sum(stages))]
        cells = [workers, len(stages), f"{wall:.1f}", f"{again:.1f}", f"{sum(stages):.1f}"]
        # Where several work at once, the seconds of stages are no part of the wall seconds.
        cells += [*(beside if workers == 1 else ["", ""]), f"{first / wall:.2f}"]
        print(f"| {' | '.join(map(str, cells))} |", flush=True)


if __name__ == "__main__":
    main()
