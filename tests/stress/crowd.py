"""Run a suite in a crowd, and compare what comes of it with a single process.

Half of the runs have four workers of pytest-xdist, the others are four pytest processes on one store, one folder of baselines
and one report folder: begun at once, or one by one, each after two more stages are finished. Half of each kind write baselines,
the others are held to those of the single process. Compared are every stage (weights, histories, p*, robust accuracies,
passes), what every process printed in its table, and the report's files, all without seconds and dates; and no stage may have
been made twice.

    python tests/stress/crowd.py --runs 20 --workers 4
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import project

OURS = {".robbench", ".benchmarks"}
"""Hidden folders that may stay: the store and data, and pytest-benchmark's own."""

HELD = {True: "writing baselines", False: "held to baselines"}


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
    parser.add_argument(
        "--workers", type=int, default=4, metavar="N", help="of pytest-xdist, or processes (default: 4)"
    )
    options = parser.parse_args()
    faults = 0
    size = {"searches": ("fast",), "epochs": 3, "images": 300, "attacked": 24}
    with tempfile.TemporaryDirectory() as name:
        expected: dict[bool, dict[str, Any]] = {}
        for update in (True, False):
            alone = project.write(Path(name) / f"alone-{update}", **size)
            if not update:
                shutil.copytree(Path(name) / "alone-True" / "baselines", alone / "baselines")
            process = project.start(alone, update=update)
            process.join()
            expected[update] = results(alone, ["log.txt"])
            what = f"exit status {process.exitcode}, {len(expected[update]['stages'])} stages"
            print(f"single process, {HELD[update]}: {what}", flush=True)
            faults += bool(process.exitcode) + (not expected[update]["stages"])
        for number in range(1, options.runs + 1):
            folder, begun = project.write(Path(name) / str(number), **size), time.monotonic()
            update, one_by_one, processes = number % 4 < 2, number // 4 % 2 == 1, []
            if not update:
                shutil.copytree(Path(name) / "alone-True" / "baselines", folder / "baselines")
            if number % 2:
                what = f"-n {options.workers}"
                processes.append(project.start(folder, "-n", str(options.workers), log="0", update=update))
            else:
                what = f"{options.workers} processes {'one by one' if one_by_one else 'at once'}"
                for log in range(options.workers):
                    project.wait_for_stages(folder, 2 * log if one_by_one else 0)
                    processes.append(project.start(folder, log=str(log), update=update))
            for process in processes:
                process.join()
            logs = [str(log) for log in range(len(processes))]
            found = project.differences(expected[update], results(folder, logs))
            found += [f"exit status {process.exitcode}" for process in processes if process.exitcode]
            faults += len(found)
            seconds = time.monotonic() - begun
            print(
                f"run {number:2}, {what}, {HELD[update]} ({seconds:.0f} s): {'; '.join(found) or 'the same'}",
                flush=True,
            )
    print(f"{faults} differences" if faults else f"no difference in {options.runs} runs")
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
