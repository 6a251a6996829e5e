"""How often the gate is wrong: alarms without a cause, planted losses that it sees, and seconds of unchanged code.

``python suites/gate/error_rates.py reports/embedded`` reads bundles of one study that was run with several seeds
(``--robbench-seeds 6``) or several times. A seed stands for everything that leads training elsewhere while the code is
the same: another processor, another version of torch. Verdicts are those of ``robbench.compare.compare``.
"""

from __future__ import annotations

import argparse
import math
import runpy
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from robbench.baselines import Baseline, baseline_of
from robbench.compare import Tolerances, compare
from robbench.errors import RobbenchError
from robbench.record import WRONG, Counts, Record, Training, write_atomically
from robbench.report import read_bundle
from robbench.spec import digest_of

PSTAR = (0.05, 0.10, 0.15, 0.20, 0.25, 0.30)
ACCURACY = (0.01, 0.02, 0.03, 0.04, 0.05)
SECONDS = (1.25, 1.5, 2.0)
PSTAR_LOSSES = (0.05, 0.10, 0.20)
ACCURACY_LOSSES = (0.01, 0.02)
FIGURES = ("median p*", "accuracy", "validation accuracy")

BEGIN, END = "<!-- tables -->", "<!-- /tables -->"

Failing = set[tuple[str, str]]
"""What fails of a run: case and figure."""


@dataclass(frozen=True)
class Run:
    """One seed of one bundle; its records are named and specified as if their seed were 0."""

    seed: int
    records: Mapping[str, Record]

    @property
    def baselines(self) -> dict[str, Baseline]:
        """The run as what another is held to."""
        return {name: baseline_of(record) for name, record in self.records.items()}

    @property
    def cases(self) -> list[str]:
        """Its models."""
        return list(dict.fromkeys(record.case for record in self.records.values()))


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """The runs of several bundles, one per bundle and seed.

    Raises:
        RobbenchError: a bundle cannot be read, or the runs share no stage.
    """
    runs = []
    for path in paths:
        records = [seedless(record) for record in read_bundle(path).records]
        seeds = sorted({seed for seed, _ in records})
        runs += [
            Run(seed, {f"{record.suite}/{record.name}": record for at, record in records if at == seed})
            for seed in seeds
        ]
    if not runs:
        raise RobbenchError("error rates: expected bundles with records, got none")
    if not set.intersection(*(set(run.records) for run in runs)):
        raise RobbenchError("error rates: expected runs of one study, got bundles that have no stage in common")
    return runs


def seedless(record: Record) -> tuple[int, Record]:
    """A record's seed, and the record as it would be named and specified with seed 0."""
    seed = record.model.seed
    spec = _without_seed(record.spec)
    facts = msgspec.structs.replace(record.model, seed=0)
    case = record.case.removesuffix(f"-seed{seed}") if seed else record.case
    return seed, msgspec.structs.replace(record, case=case, spec=spec, digest=digest_of(spec), model=facts)


def _without_seed(spec: Any) -> Any:
    """A described spec in which every model's seed is 0; seeds of data and estimate stay."""
    if not isinstance(spec, dict):
        return spec
    inner = {key: _without_seed(value) for key, value in spec.items()}
    return inner | {"seed": 0} if spec.get("kind") == "Model" else inner


def failing(records: Mapping[str, Record], baselines: Mapping[str, Baseline], tolerances: Tolerances) -> Failing:
    """Case and figure of every verdict that fails, of the stages that both have."""
    return {
        (verdict.case, verdict.figure)
        for name in records.keys() & baselines.keys()
        for verdict in compare(records[name], baselines[name], tolerances)
        if verdict.fails
    }


# --- planted losses ---------------------------------------------------------------------------------------------------


def lose_pstar(record: Record, loss: float) -> Record:
    """The record after every minimum perturbation became smaller by the share ``loss``.

    p* is the grid value above an image's minimum perturbation, which is drawn at random from the step below it, scaled,
    and snapped to the grid again: up, as p* is. Censored images stay so: how far beyond the grid they lie is not known.
    """
    robustness = record.robustness
    if robustness is None or not loss:
        return record
    places = np.asarray(robustness.pstar)
    within = places - _generator(record).random(len(places))
    scaled = np.maximum(np.ceil(within * (1 - loss)), 0).astype(int)
    found = (places != WRONG) & (places < len(robustness.grid))
    changed = np.where(found, scaled, places).tolist()
    return msgspec.structs.replace(record, robustness=msgspec.structs.replace(robustness, pstar=changed))


def lose_accuracy(record: Record, points: float) -> Record:
    """The record after so many points (a share) of its images, chosen at random, became misclassified; rounded up."""
    if not points:
        return record
    if (robustness := record.robustness) is not None:
        places = np.asarray(robustness.pstar)
        right = np.flatnonzero(places != WRONG)
        count = min(len(right), math.ceil(points * len(places)))
        places[_generator(record).choice(right, count, replace=False)] = WRONG
        attacks = [
            msgspec.structs.replace(tested, robust=_at_most(tested.robust, int(np.sum(places != WRONG))))
            for tested in robustness.attacks
        ]
        changed = msgspec.structs.replace(robustness, pstar=places.tolist(), attacks=attacks)
        return msgspec.structs.replace(record, robustness=changed)
    training = record.training
    assert training is not None
    validation = training.validation
    left = _at_most(validation, max(0, validation.correct - math.ceil(points * validation.total)))
    return msgspec.structs.replace(record, training=with_validation(training, left))


def with_validation(training: Training, validation: Counts) -> Training:
    """A training stage with other validation counts, which its history says of the kept epoch, too."""
    epochs = [
        msgspec.structs.replace(epoch, validation=validation) if epoch.epoch == training.best else epoch
        for epoch in training.epochs
    ]
    return msgspec.structs.replace(training, epochs=epochs, validation=validation)


def _at_most(counts: Counts, correct: int) -> Counts:
    """Of the same images, no more than so many."""
    return msgspec.structs.replace(counts, correct=min(counts.correct, correct))


def _generator(record: Record) -> np.random.Generator:
    """Random numbers of a stage and its outcome: the same in every run of this script, others for other outcomes."""
    places = record.robustness.pstar if record.robustness else []
    return np.random.default_rng(zlib.crc32(f"{record.name} {places}".encode()))


Loss = tuple[str, Callable[[Record], Record]]


def losses() -> list[Loss]:
    """What is planted, by name; the first is nothing."""
    return [
        ("none", lambda record: record),
        *((f"{loss:.0%} of median p*", lambda record, loss=loss: lose_pstar(record, loss)) for loss in PSTAR_LOSSES),
        *(
            (
                f"{_points(points)} of accuracy",
                lambda record, p=points: lose_accuracy(record, p),
            )
            for points in ACCURACY_LOSSES
        ),
    ]


# --- rates ------------------------------------------------------------------------------------------------------------


@dataclass
class Rate:
    """How many of how many."""

    hits: int = 0
    of: int = 0

    def add(self, hit: bool) -> None:
        """Count one more."""
        self.hits += hit
        self.of += 1

    @property
    def share(self) -> float:
        """Hits ÷ all; NaN of none."""
        return self.hits / self.of if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.share:.1%} ({self.hits:,} of {self.of:,})" if self.of else "–"


def pairs(runs: Sequence[Run], *, same_seed: bool) -> Iterator[tuple[Run, Run]]:
    """Every ordered pair of runs, baseline first, of one seed or of two."""
    return ((old, new) for old, new in permutations(runs, 2) if (old.seed == new.seed) == same_seed)


def alarms(found: Sequence[tuple[Run, Run]]) -> list[tuple[float, float, list[Failing]]]:
    """What fails in each pair, for pairs of tolerances that hold every value of both grids at least once."""
    rows = []
    for i in range(max(len(PSTAR), len(ACCURACY))):
        pstar, accuracy = PSTAR[min(i, len(PSTAR) - 1)], ACCURACY[min(i, len(ACCURACY) - 1)]
        gate = Tolerances(pstar=pstar, accuracy=accuracy, seconds=math.inf)
        rows.append((pstar, accuracy, [failing(new.records, old.baselines, gate) for old, new in found]))
    return rows


class Grid:
    """What fails between pairs of runs at every tolerance.

    A figure's verdict depends on its own tolerance alone, so the two grids are gone through side by side and joined.
    """

    def __init__(self, found: Sequence[tuple[Run, Run]]) -> None:
        self._pairs = found
        self._failing: dict[tuple[str, float], list[Failing]] = {}
        for pstar, accuracy, failures in alarms(found):
            for figure in FIGURES:
                tolerance = pstar if figure == "median p*" else accuracy
                self._failing[figure, tolerance] = [{name for name in run if name[1] == figure} for run in failures]

    def per_comparison(self, figure: str, tolerance: float) -> Rate:
        """How often one model's figure fails."""
        stage = "training" if figure == "validation accuracy" else "robustness"
        of = sum(
            new.records[name].stage == stage
            for old, new in self._pairs
            for name in new.records.keys() & old.records.keys()
        )
        return Rate(sum(map(len, self._failing[figure, tolerance])), of)

    def per_run(self, pstar: float, accuracy: float) -> Rate:
        """How often anything fails."""
        rate = Rate()
        for parts in zip(
            *(self._failing[figure, pstar if figure == "median p*" else accuracy] for figure in FIGURES), strict=True
        ):
            rate.add(any(parts))
        return rate

    def smallest(self, target: float) -> list[tuple[float, float]]:
        """Tolerances (p*, accuracy) with at most ``target`` alarms a run, neither of which can be smaller."""
        good = [(p, a) for p in PSTAR for a in ACCURACY if self.per_run(p, a).share <= target]
        return [(p, a) for p, a in good if not any(q <= p and b <= a and (q, b) != (p, a) for q, b in good)]


@dataclass(frozen=True)
class Seen:
    """How often planted losses are seen."""

    model: Rate
    """One model's: something of this model fails."""
    every: Rate
    """Every model's: something of the run fails."""
    single: Rate
    """One model's: something of the run fails."""


def seen(found: Iterable[tuple[Run, Run]], plant: Callable[[Record], Record], gate: Tolerances) -> Seen:
    """What the gate sees of losses planted into the newer of each pair of runs."""
    result = Seen(Rate(), Rate(), Rate())
    for old, new in found:
        baselines = old.baselines
        before = failing(new.records, baselines, gate)
        after = failing({name: plant(record) for name, record in new.records.items()}, baselines, gate)
        result.every.add(bool(after))
        for case in new.cases:
            hit = any(name == case for name, _ in after)
            result.model.add(hit)
            result.single.add(hit or any(name != case for name, _ in before))
    return result


def slower(found: Iterable[tuple[Run, Run]], factor: float) -> tuple[Rate, Rate]:
    """How often the seconds of a stage, and of any stage of a run, fail on the same machine class."""
    stages, whole = Rate(), Rate()
    gate = Tolerances(seconds=factor)
    for old, new in found:
        verdicts = [
            verdict
            for name, baseline in old.baselines.items()
            if name in new.records
            for verdict in compare(new.records[name], baseline, gate)
            if verdict.figure == "seconds" and verdict.mark != "x"
        ]
        for verdict in verdicts:
            stages.add(verdict.fails)
        if verdicts:
            whole.add(any(verdict.fails for verdict in verdicts))
    return stages, whole


# --- tables -----------------------------------------------------------------------------------------------------------


def report(runs: Sequence[Run], declared: Tolerances, target: float) -> str:
    """The tables as markdown."""
    others, reruns = list(pairs(runs, same_seed=False)), list(pairs(runs, same_seed=True))
    seeds = sorted({run.seed for run in runs})
    stages = len(set.intersection(*(set(run.records) for run in runs)))
    parts = [
        f"{len(runs)} runs of {stages} stages, seeds {', '.join(map(str, seeds))}: {len(others)} ordered pairs of runs "
        f"with different seeds, {len(reruns)} with the same seed."
    ]
    gates = [("declared", declared), ("default", Tolerances(seconds=math.inf))]
    if others:
        grid = Grid(others)
        parts += [*crying_wolf(grid, Grid(reruns)), *proposal(grid, target)]
        gates += [
            ("proposed", replace(declared, pstar=pstar, accuracy=accuracy))
            for pstar, accuracy in grid.smallest(target)
            if (pstar, accuracy) not in [(gate.pstar, gate.accuracy) for _, gate in gates]
        ]
    parts += seeing([(run, run) for run in runs], others, gates)
    if others or reruns:
        parts += seconds([*others, *reruns])
    return "\n\n".join(parts) + "\n"


def crying_wolf(others: Grid, reruns: Grid) -> list[str]:
    """Alarms on unchanged code: per comparison and figure, and per run."""
    rows = [
        [
            figure,
            _tolerance(figure, value),
            str(others.per_comparison(figure, value)),
            str(reruns.per_comparison(figure, value)),
        ]
        for figure in FIGURES
        for value in (PSTAR if figure == "median p*" else ACCURACY)
    ]
    whole = [
        [f"**{pstar:.0%}**", *(f"{others.per_run(pstar, accuracy).share:.1%}" for accuracy in ACCURACY)]
        for pstar in PSTAR
    ]
    return [
        "**Crying wolf, per comparison.** How often one figure of one model fails although the code is unchanged.",
        _table(["figure", "tolerance", "another seed", "the same seed, run again"], rows, "llrr"),
        "**Crying wolf, per run of the suite.** How often any figure of a run with another seed fails; rows: tolerance of "
        "median p\\*, columns: tolerance of both accuracies.",
        _table(["", *map(_points, ACCURACY)], whole, "l" + "r" * len(ACCURACY)),
    ]


def proposal(grid: Grid, target: float) -> list[str]:
    """The smallest tolerances with fewer alarms than the target."""
    found = grid.smallest(target)
    if not found:
        return [f"No tolerances of this grid keep alarms of runs with another seed at {target:.0%} or below."]
    named = [f"pstar={p:g}, accuracy={a:g} ({grid.per_run(p, a)})" for p, a in found]
    return [
        f"Smallest tolerances that alarm in at most {target:.0%} of the runs with another seed: {'; '.join(named)}."
    ]


def seeing(
    same: Sequence[tuple[Run, Run]], others: Sequence[tuple[Run, Run]], gates: Sequence[tuple[str, Tolerances]]
) -> list[str]:
    """Planted losses that are seen, for each gate."""
    rows = []
    for name, gate in gates:
        for loss, plant in losses():
            at_home, abroad = seen(same, plant, gate), seen(others, plant, gate)
            rates = (at_home.model, at_home.every, abroad.model, abroad.every, abroad.single)
            rows.append(
                [
                    f"{name}: {gate.pstar:.0%}, {_points(gate.accuracy)}",
                    loss.replace("*", "\\*"),
                    *map(str, rates),
                ]
            )
    head = [
        "gate",
        "planted loss",
        "same seed: a model",
        "same seed: a run, all models lost",
        "another seed: a model",
        "another seed: a run, all models lost",
        "another seed: a run, one model lost",
    ]
    return [
        "**Seeing losses.** How often a planted loss makes its model fail, and the run. The same seed: planted into a run "
        "that is otherwise bit for bit its baseline, so a run with one lost model fails as often as the model. Another "
        "seed: planted into a run with another seed than its baseline's; what fails without a loss stands in the first row.",
        _table(head, rows, "llrrrrr"),
    ]


def seconds(found: Sequence[tuple[Run, Run]]) -> list[str]:
    """Alarms of seconds between runs of unchanged code."""
    floor = Tolerances().seconds_floor
    rows = [[f"× {factor:g} and {floor:g} s", *map(str, slower(found, factor))] for factor in SECONDS]
    return [
        "**Seconds.** How often the seconds of a stage fail between two runs of unchanged code on one class of machine.",
        _table(["tolerance", "a stage", "any stage of a run"], rows, "lrr"),
    ]


def _tolerance(figure: str, value: float) -> str:
    return f"{value:.0%}" if figure == "median p*" else _points(value)


def _points(share: float) -> str:
    return "1 point" if share == 0.01 else f"{share * 100:g} points"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = ["--:" if side == "r" else "---" for side in align]
    lines = [[cell.replace("p*", "p\\*") if "\\*" not in cell else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))


# --- command ----------------------------------------------------------------------------------------------------------


def write_between(path: Path, text: str) -> None:
    """Put text between the two markers of a page.

    Raises:
        RobbenchError: the page cannot be read or written, or has not one marker of each kind, in their order.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be read: {error.strerror or error}") from error
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise RobbenchError(f"{str(path)!r}: expected the lines {BEGIN} and {END}, once and in this order")
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    write_atomically(path, f"{before}{BEGIN}\n\n{text}\n{END}{after}".encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Read bundles, print the tables; returns the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("bundles", nargs="+", type=Path, metavar="RECORDS", help="a bundle's records.json or folder")
    parser.add_argument(
        "--suite",
        type=Path,
        default=Path(__file__).parents[1] / "test_embedded.py",
        metavar="FILE",
        help="suite file whose marker declares the tolerances (default: the embedded suite)",
    )
    parser.add_argument(
        "--target", type=float, default=0.05, metavar="SHARE", help="alarms per run to propose for (default: 0.05)"
    )
    parser.add_argument(
        "--write", type=Path, metavar="FILE", help=f"also put the tables between {BEGIN} and {END} there"
    )
    options = parser.parse_args(arguments)
    try:
        declared = Tolerances.of(runpy.run_path(str(options.suite))["pytestmark"].kwargs)
        text = report(read_runs(options.bundles), declared, options.target)
        if options.write:
            write_between(options.write, text)
    except RobbenchError as error:
        print(f"error_rates: {error}", file=sys.stderr)
        return 2
    print(text, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
