"""Run a suite in a crowd, and compare what comes of it with a single process.

Some runs have four workers of pytest-xdist, the others are two to four pytest processes on one store, one folder of
baselines and one report folder, begun at nearly the same time: what is finished before a run begins is made again by it.
Compared are every stage (weights, histories, p*, robust accuracies, passes), what every process printed in its table, and
the report's files, all without seconds and dates; and no stage may have been made twice.

    python tests/stress/crowd.py --runs 20 --workers 4
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import project

OURS = {".robbench", ".benchmarks"}
"""Hidden folders that may stay: the store and data, and pytest-benchmark's own."""


def results(folder: Path, logs: list[str]) -> dict[str, Any]:
    """All that is compared of a run."""
    made = [path.name for path in sorted((folder / "made").iterdir())]
    tables = [project.shown(folder, log) for log in logs]
    return {
        "stages": project.stages(folder),
        "table": tables[0],
        "other tables": [table for table in tables if table != tables[0]],
        "bundles": project.bundles(folder),
        "made": [name.partition(" ")[0] for name in made],
        "left behind": [str(path.relative_to(folder)) for path in folder.rglob(".*") if path.name not in OURS],
    }


def main() -> int:
    """Exit status 1 where a run differs from the single process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20, metavar="N")
    parser.add_argument("--workers", type=int, default=4, metavar="N", help="of pytest-xdist (default: 4)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    numbers, faults = random.Random(options.seed), 0
    size = {"searches": ("fast",), "epochs": 3, "images": 300, "attacked": 24}
    with tempfile.TemporaryDirectory() as name:
        alone = project.write(Path(name) / "alone", **size)
        process = project.start(alone)
        process.join()
        expected = results(alone, ["log.txt"])
        print(f"single process: exit status {process.exitcode}, {len(expected['stages'])} stages", flush=True)
        for number in range(1, options.runs + 1):
            folder, begun = project.write(Path(name) / str(number), **size), time.monotonic()
            if number % 5 in (1, 3):
                what, processes = f"-n {options.workers}", [project.start(folder, "-n", str(options.workers), log="0")]
            else:
                count = numbers.randint(2, 4)
                what, processes = f"{count} processes", []
                for log in range(count):
                    processes.append(project.start(folder, log=str(log)))
                    time.sleep(numbers.uniform(0, 0.05))
            for process in processes:
                process.join()
            logs = [str(log) for log in range(len(processes))]
            found = project.differences(expected, results(folder, logs))
            found += [f"exit status {process.exitcode}" for process in processes if process.exitcode]
            faults += len(found)
            seconds = time.monotonic() - begun
            print(f"run {number:2}, {what} ({seconds:.0f} s): {'; '.join(found) or 'the same'}", flush=True)
    print(f"{faults} differences" if faults else f"no difference in {options.runs} runs")
    return 1 if faults or not expected["stages"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
