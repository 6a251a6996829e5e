"""How long the published studies would take on several GPUs: their graph of stages with the published seconds, simulated.

    python -m suites.perf.cluster

Every row of tables B.1 to B.9 is a training, as long as was published (one NVIDIA L4), and a search of p* on 10,000 test
images. How long these took was not published: a search is taken for as many passes as the reference search needs at most,
at the speed of the published adversarial training of the same network and data. A transfer waits for its source, p* for its
model. Stages go to free GPUs in the order in which robbench submits them, or those with the longest way behind them first.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from dataclasses import dataclass

from robbench.planning.work import search_work, training_work
from robbench.report.published import Published, published_rows
from robbench.spec import Estimate, Recipe, recipes

GPUS = (1, 2, 4, 8, 16)
TEST_IMAGES, PART = 10_000, 1_000
TRAINING_IMAGES = {"mnist": 60_000, "emnist": 112_800, "cifar10": 50_000, "cifar100": 50_000}
DIVIDED = {0: "p* whole", PART: f"p* in parts of {PART:,}"}


@dataclass(frozen=True)
class Stage:
    """A stage of a row, or a part of one."""

    name: str
    seconds: float
    needs: tuple[str, ...] = ()


def training_name(row: Published) -> str:
    """What a row's training is called."""
    return "-".join(str(part) for part in row.key if part is not None)


def pstar_seconds(row: Published) -> float:
    """Passes of the search, at the speed of the adversarial training of the network and data from scratch."""
    scratch = row.scratch_row
    grey = row.dataset in ("mnist", "emnist")
    recipe: Recipe = recipes.MNIST_PGD if grey else recipes.CIFAR_PGD
    estimate: Estimate = recipes.MNIST_ESTIMATE if grey else recipes.CIFAR_ESTIMATE
    images = TRAINING_IMAGES[row.dataset]
    epoch = training_work(recipe, round(0.8 * images), round(0.2 * images)) * 1
    passes = (epoch.forward + epoch.backward) / recipe.epochs * scratch.epochs
    search = search_work(Estimate(grid=estimate.grid, attack=estimate.attack, search="reference"), TEST_IMAGES)
    return scratch.train_seconds * (search.forward + search.backward) / passes


def graph(part: int) -> dict[str, Stage]:
    """All stages by name, in the order in which robbench submits them; ``part`` images of p* are a stage, 0 for all."""
    found: dict[str, Stage] = {}
    for row in published_rows():
        needs = (training_name(row.source_row),) if row.source else ()
        found[training_name(row)] = Stage(training_name(row), row.train_seconds, needs)
    for row in published_rows():
        count = TEST_IMAGES // part if part else 1
        for number in range(count):
            name = f"{training_name(row)} p* {number}"
            found[name] = Stage(name, pstar_seconds(row) / count, (training_name(row),))
    return found


def ways(stages: Mapping[str, Stage]) -> dict[str, float]:
    """Seconds of the longest way from the beginning of each stage to the end of all."""
    behind: dict[str, list[str]] = {name: [] for name in stages}
    for stage in stages.values():
        for need in stage.needs:
            behind[need].append(stage.name)
    found: dict[str, float] = {}

    def way(name: str) -> float:
        if name not in found:
            found[name] = stages[name].seconds + max(map(way, behind[name]), default=0.0)
        return found[name]

    for name in stages:
        way(name)
    return found


def makespan(stages: Mapping[str, Stage], gpus: int, *, longest_first: bool) -> float:
    """Seconds until all stages are made, each on one GPU as soon as one is free and its needs are made."""
    way = ways(stages)
    rank = {name: (-way[name] if longest_first else number) for number, name in enumerate(stages)}
    left = {name: len(stage.needs) for name, stage in stages.items()}
    ready = [(rank[name], name) for name in stages if not left[name]]
    heapq.heapify(ready)
    busy: list[tuple[float, str]] = []
    now = 0.0
    while ready or busy:
        while ready and len(busy) < gpus:
            name = heapq.heappop(ready)[1]
            heapq.heappush(busy, (now + stages[name].seconds, name))
        now, made = heapq.heappop(busy)
        for name, stage in stages.items():
            if made in stage.needs:
                left[name] -= 1
                if not left[name]:
                    heapq.heappush(ready, (rank[name], name))
    return now


def main() -> None:
    """Print the table."""
    print("| GPUs | p\\* | order | makespan, days | utilisation | speed-up |")
    print("| --: | --- | --- | --: | --: | --: |")
    for part, how in DIVIDED.items():
        stages = graph(part)
        total = sum(stage.seconds for stage in stages.values())
        for gpus in GPUS:
            for longest_first in (False, True):
                seconds = makespan(stages, gpus, longest_first=longest_first)
                order = "longest way first" if longest_first else "as submitted"
                print(
                    f"| {gpus} | {how.removeprefix('p* ')} | {order} | {seconds / 86400:.1f} | {total / seconds / gpus:.0%} | "
                    f"{total / seconds:.2f} |"
                )
    for part, how in DIVIDED.items():
        stages, way = graph(part), ways(graph(part))
        name = max(way, key=lambda each: way[each])
        path = [name]
        while behind := [stage.name for stage in stages.values() if path[-1] in stage.needs]:
            path.append(max(behind, key=lambda each: way[each]))
        print(f"\ncritical path, {how}: {way[name] / 86400:.2f} days")
        print("  " + " > ".join(f"{each} ({stages[each].seconds / 86400:.2f} days)" for each in path))
    training = sum(row.train_seconds for row in published_rows())
    print(f"\n{training / 86400:.1f} days of training, {sum(map(pstar_seconds, published_rows())) / 86400:.1f} of p*")


if __name__ == "__main__":
    main()
