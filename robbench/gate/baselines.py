"""Reading and writing ``baselines/<suite>/<case>.<stage>.json``: small, sorted, readable in a diff."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from functools import singledispatch
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.record import (
    MISCLASSIFIED,
    UNREADABLE,
    Counts,
    DataUsed,
    Duration,
    Environment,
    LowerBounds,
    Record,
    Robustness,
    Struct,
    Training,
)
from robbench.store.files import write_atomically

SCHEMA = "robbench.baseline/1"


class Baseline(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a stage of a case is held to."""

    suite: str
    case: str
    stage: str
    digest: str
    spec: dict[str, Any]
    data: DataUsed
    seed: int
    seconds: dict[str, Duration]
    """Measured seconds per machine slug, all of this digest."""
    environment: Environment
    """Where the figures were last measured."""
    accuracy: Counts | None = None
    """Test accuracy of a robustness stage, validation accuracy of a training stage."""
    grid: list[float] | None = None
    pstar: list[int] | None = None
    """Per test image, as in :class:`robbench.record.Robustness`."""
    lower: list[int] | None = None
    """Per image, as in :class:`robbench.record.LowerBounds`."""
    figures: dict[str, Any] = msgspec.field(default_factory=dict)
    """What a stage of another kind is held to, by that kind's own names."""

    def __post_init__(self) -> None:
        if self.pstar is None:
            return
        right = Counts(correct=sum(index != MISCLASSIFIED for index in self.pstar), total=len(self.pstar))
        inside = all(MISCLASSIFIED <= index <= len(self.grid or ()) for index in self.pstar)
        if right != self.accuracy or not inside:
            raise ValueError("expected accuracy, grid and p* of one run; were two files merged?")


@singledispatch
def figures_of(result: Any) -> dict[str, Any]:
    """Fields of the :class:`Baseline` that a result makes; another kind of stage registers its own."""
    return {}


@figures_of.register
def _(result: Training) -> dict[str, Any]:
    return {"accuracy": result.validation} if result.validation.total else {}


@figures_of.register
def _(result: Robustness) -> dict[str, Any]:
    return {"accuracy": result.clean, "grid": result.grid, "pstar": result.pstar}


@figures_of.register
def _(result: LowerBounds) -> dict[str, Any]:
    return {"grid": result.grid, "lower": result.lower}


def baseline_of(record: Record, previous: Baseline | None = None) -> Baseline:
    """The baseline that a record makes; seconds of other machines stay while the digest does."""
    kept = previous.seconds if previous is not None and previous.digest == record.digest else {}
    return Baseline(
        suite=record.suite,
        case=record.case,
        stage=record.stage,
        digest=record.digest,
        spec=record.spec,
        data=record.data,
        seed=record.model.seed,
        seconds={**kept, record.environment.slug: round(record.seconds.measured, 3)},
        environment=record.environment,
        **figures_of(record.result),
    )


def baseline_path(folder: Path, suite: str, case: str, stage: str) -> Path:
    """Where a baseline lies."""
    return folder / suite / f"{case}.{stage}.json"


def read_baseline(folder: Path, suite: str, case: str, stage: str) -> Baseline | None:
    """The stored baseline of a stage, or None; a RobbenchError if its file is damaged."""
    path = baseline_path(folder, suite, case, stage)
    try:
        values = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        if values.pop("schema", None) != SCHEMA:
            raise ValueError("it has another schema")
        return msgspec.convert(values, Baseline)
    except FileNotFoundError:
        return None
    except (OSError, *UNREADABLE) as error:
        raise RobbenchError(
            f"baseline {str(path)!r}: expected a file of schema {SCHEMA!r} ({error}); "
            "restore it from version control, or remove it and write it anew with --robbench-update"
        ) from error


def write_baseline(folder: Path, record: Record) -> Path:
    """Write or renew a record's baseline; returns its path. A RobbenchError if it is damaged, or cannot be written."""
    path = baseline_path(folder, record.suite, record.case, record.stage)
    previous = read_baseline(folder, record.suite, record.case, record.stage)
    write_atomically(path, encode_baseline(baseline_of(record, previous)).encode())
    return path


def undeclared(folder: Path, suite: str, declared: Collection[str]) -> list[Path]:
    """The baselines of a suite that belong to none of its stages (``case.stage``), of any seed: an option may add seeds."""
    known = {_without_seed(name) for name in declared}
    found = [path for path in sorted((folder / suite).glob("*.json")) if _without_seed(path.stem) not in known]
    return [path for path in found if _is_ours(folder, suite, path.stem)]


def _without_seed(name: str) -> str:
    return re.sub(r"-seed\d+(?=\.[^.]+$)", "", name)


def _is_ours(folder: Path, suite: str, name: str) -> bool:
    case, _, stage = name.rpartition(".")
    try:
        return read_baseline(folder, suite, case, stage) is not None
    except RobbenchError:
        return False


def encode_baseline(baseline: Baseline) -> str:
    """JSON with sorted keys, two-space indent, and lists of numbers on one line."""
    values = {"schema": SCHEMA} | msgspec.to_builtins(baseline)
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    return re.sub(r"\[\n[-+.,eE\d\s]*\]", lambda numbers: json.dumps(json.loads(numbers[0])), text) + "\n"
