"""Runs of a study without their seeds, and what fails when one is held to another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.gate.baselines import Baseline, baseline_of
from robbench.gate.verdicts import Tolerances, compare, levels
from robbench.record import Record
from robbench.report import read_bundle
from robbench.spec import digest_of

Failing = set[tuple[str, str]]
"""What fails of a run: case and figure."""


@dataclass(frozen=True)
class Run:
    """One seed of one bundle; its records are named and specified as if their seed were 0."""

    seed: int
    commit: str | None
    """Of the code that made it."""
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
        RobbenchError: a bundle cannot be read, or the runs share no stage, or were tested on different images.
    """
    runs = []
    for path in paths:
        records = [seedless(record) for record in read_bundle(path).records]
        seeds = sorted({seed for seed, _ in records})
        runs += [
            Run(seed, own[0].environment.commit, {f"{record.suite}/{record.name}": record for record in own})
            for seed in seeds
            if (own := [record for at, record in records if at == seed])
        ]
    if not runs:
        raise RobbenchError("error rates: expected bundles with records, got none")
    if not set.intersection(*(set(run.records) for run in runs)):
        raise RobbenchError("error rates: expected runs of one study, got bundles that have no stage in common")
    tested: dict[str, list[int]] = {}
    for name, record in ((name, record) for run in runs for name, record in run.records.items() if record.robustness):
        if tested.setdefault(name, record.result.images) != record.result.images:
            raise RobbenchError(
                f"error rates: expected runs tested on the same images, got others for {name}, since every seed draws its "
                "own; run a study that is tested on all its test images (suites/gate/test_embedded_runs.py)"
            )
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
    """Case and figure of every verdict that fails, of the stages that both have; tested as the figures of one study."""
    level = levels(records.values())
    return {
        (verdict.case, verdict.figure)
        for name in records.keys() & baselines.keys()
        for verdict in compare(records[name], baselines[name], tolerances, level[records[name].suite])
        if verdict.fails
    }


def trainings(runs: Sequence[Run]) -> list[Run]:
    """The runs without repetitions: one of each seed and commit."""
    return list({(run.seed, run.commit): run for run in reversed(runs)}.values())[::-1]


def pairs_of_seeds(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pairs of runs of different seeds, baseline first, each run in one pair at most, so that pairs are independent."""
    return _pairs(trainings(runs), lambda old, new: old.seed != new.seed)


def repetitions(runs: Sequence[Run]) -> list[tuple[Run, Run]]:
    """Pairs of runs of one seed and commit, baseline first, each run in one pair at most."""
    return _pairs(runs, lambda old, new: (old.seed, old.commit) == (new.seed, new.commit))


def _pairs(runs: Sequence[Run], fit: Callable[[Run, Run], bool]) -> list[tuple[Run, Run]]:
    """Every run with the first after it that fits and has no partner yet."""
    left, found = [*runs], []
    while left:
        old = left.pop(0)
        at = next((at for at, new in enumerate(left) if fit(old, new)), None)
        if at is not None:
            found.append((old, left.pop(at)))
    return found
