"""The rates as tables in Markdown."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from gate_errors.losses import losses, points_text
from gate_errors.rates import ACCURACY, FIGURES, PSTAR, Grid, seen, slower
from gate_errors.runs import Run, pairs_of_seeds, repetitions, trainings

from robbench.gate.verdicts import Tolerances
from robbench.report.markdown import many

SECONDS = (1.25, 1.5, 2.0)


def report(runs: Sequence[Run], declared: Tolerances, target: float) -> str:
    """The tables as markdown."""
    others, reruns = pairs_of_seeds(runs), repetitions(runs)
    seeds = sorted({run.seed for run in runs})
    commits = sorted({run.commit[:7] for run in runs if run.commit})
    of = f" at commit{'s' * (len(commits) > 1)} {', '.join(commits)}" if commits else ""
    stages = len(set.intersection(*(set(run.records) for run in runs)))
    parts = [
        f"{many(len(runs), 'run')} of {stages} stages, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}{of}: {many(len(others), 'distinct pair')} "
        f"of runs with different seeds, {len(reruns)} with the same seed and commit; each run is in one pair of a kind. "
        "Behind rates of runs stand their exact 95% intervals; comparisons have none, since a run's models share sources."
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
    parts += seeing([(run, run) for run in trainings(runs)], others, gates)
    if others or reruns:
        parts += seconds([(old, new) for old, new in (*others, *reruns) if old.commit == new.commit])
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
    whole = [[f"**{pstar:.0%}**", *(others.per_run(pstar, accuracy).exact for accuracy in ACCURACY)] for pstar in PSTAR]
    return [
        "**Crying wolf, per comparison.** How often one figure of one model fails although the code is unchanged.",
        _table(["figure", "tolerance", "another seed", "the same seed, run again"], rows, "llrr"),
        "**Crying wolf, per run of the suite.** How often any figure of a run with another seed fails; rows: tolerance of "
        "median p\\*, columns: tolerance of both accuracies.",
        _table(["", *map(points_text, ACCURACY)], whole, "l" + "r" * len(ACCURACY)),
    ]


def proposal(grid: Grid, target: float) -> list[str]:
    """The smallest tolerances with fewer alarms than the target."""
    found = grid.smallest(target)
    if not found:
        return [f"No tolerances of this grid keep alarms of runs with another seed at {target:.0%} or below."]
    named = [f"pstar={p:g}, accuracy={a:g} ({grid.per_run(p, a).exact})" for p, a in found]
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
            rates = str(at_home.model), at_home.every.exact, str(abroad.model), abroad.every.exact, str(abroad.single)
            rows.append(
                [
                    f"{name}: {gate.pstar:.0%}, {points_text(gate.accuracy)}",
                    loss.replace("*", "\\*"),
                    *rates,
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
    rates = [(factor, *slower(found, factor)) for factor in SECONDS]
    rows = [[f"× {factor:g} and {floor:g} s", str(stages), whole.exact] for factor, stages, whole in rates]
    return [
        "**Seconds.** How often the seconds of a stage fail between two runs of unchanged code on one class of machine.",
        _table(["tolerance", "a stage", "any stage of a run"], rows, "lrr"),
    ]


def _tolerance(figure: str, value: float) -> str:
    return f"{value:.0%}" if figure == "median p*" else points_text(value)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], align: str) -> str:
    rule = ["--:" if side == "r" else "---" for side in align]
    lines = [[cell.replace("p*", "p\\*") if "\\*" not in cell else cell for cell in row] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (head, rule, *lines))
