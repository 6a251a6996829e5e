"""Kill a suite again and again, at random moments, and compare what it ends with to a run that was left alone.

A round runs the project's two studies in an empty folder: conventional and adversarial training, two transfers, and both
searches of p*. A SIGKILL ends it after a random time, the next run goes on until the next SIGKILL ends that, until a run gets
to its end. The time counts from a run's first item on. Weights (bytes), training history, p*, robust accuracies and
numbers of passes of every stage must be those of the run that was left alone.

    python tests/stress/kill.py --kills 30
"""

from __future__ import annotations

import argparse
import collections
import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import project


def round_of_kills(
    folder: Path, numbers: random.Random, longest: float, say: Callable[[str], None], *, at_most: int = 1000
) -> list[str]:
    """Run a project to its end, killed after at most ``longest`` seconds each time; what ran at each of the kills."""
    kills: list[str] = []
    item = folder / "item.txt"
    while True:
        item.unlink(missing_ok=True)
        process = project.start(folder)
        while process.is_alive() and not item.exists():
            time.sleep(0.01)
        life = numbers.uniform(0, longest)
        process.join(life if len(kills) < at_most else None)
        if process.exitcode is None:
            process.kill()
            process.join()
            kills.append(item.read_text())
            say(f"  killed after {life:5.2f} s: {kills[-1]}")
        else:
            say(f"  done, exit status {process.exitcode}")
            if process.exitcode:
                say((folder / "log.txt").read_text()[-2000:])
            return kills


def undisturbed(folder: Path, *options: str) -> tuple[int | None, float]:
    """Exit status and seconds of a run that nobody kills."""
    begun = time.monotonic()
    process = project.start(folder, *options)
    process.join()
    return process.exitcode, time.monotonic() - begun


def main() -> int:
    """Exit status 1 where a stage of any round differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, metavar="N", help="at least so many in stages (default: 30)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=5, help="of every training (default: 5)")
    parser.add_argument("--images", type=int, default=400, help="to train on (default: 400)")
    parser.add_argument("--network", default="net:small", help="or any of robbench's own (default: %(default)s)")
    options = parser.parse_args()
    numbers, kills, faults = random.Random(options.seed), collections.Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        size = {"epochs": options.epochs, "images": options.images, "steps": 4, "attacked": 24, "drawn": False}
        size |= {"network": options.network}
        alone = project.write(Path(name) / "alone", **size)
        status, seconds = undisturbed(alone)
        expected = project.stages(alone)
        print(f"left alone: exit status {status}, {len(expected)} stages in {seconds:.0f} s", flush=True)
        longest = max(seconds / 4, 2 * undisturbed(alone)[1])  # or no run would get to its end
        number = 0
        while in_stages(kills).total() < options.kills:
            number += 1
            print(f"round {number}", flush=True)
            folder = project.write(Path(name) / f"round{number}", **size)
            kills.update(round_of_kills(folder, numbers, longest, lambda line: print(line, flush=True)))
            found = project.differences(expected, project.stages(folder))
            faults += len(found)
            same = f"{len(expected)} stages: weights, histories, p*, robust accuracies and passes identical"
            print("\n".join(f"  DIFFERENT {line}" for line in found) or f"  {same}", flush=True)
    parts = in_stages(kills)
    print(
        f"{kills.total()} kills in {number} rounds, {parts.total()} of them in stages: "
        + ", ".join(f"{parts[part]} {text}" for part, text in PARTS.items())
    )
    print(f"{faults} differences" if faults else "no difference")
    return 1 if faults or status or not expected else 0


PARTS = {
    "-digits-": "training the sources",
    "-letters-standard": "training conventionally",
    "-letters-pgd": "training adversarially",
    "-letters-TL": "in transfers",
    "test_fast.py::test_robustness": "in p*, fast",
    "test_reference.py::test_robustness": "in p*, reference",
}


def in_stages(kills: collections.Counter[str]) -> collections.Counter[str]:
    """The kills of items that train or estimate, by the part of the study that they are."""
    found = collections.Counter[str]()
    for item, count in kills.items():
        kind = "::test_robustness" if "::test_robustness" in item else ""
        part = next((part for part in PARTS if (kind in part if kind else "::" not in part) and part in item), None)
        if part:
            found[part] += count
    return found


if __name__ == "__main__":
    raise SystemExit(main())
