"""Reading and writing ``baselines/<suite>/<case>.<stage>.json``: small, sorted, readable in a diff. No torch."""

from __future__ import annotations

import json
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
    """Radii of a robustness stage's p*."""
    pstar: list[int] | None = None
    """Per test image, as in :class:`robbench.record.Robustness`."""
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
    """What a result is held to, as fields of a :class:`Baseline`; another kind of stage registers its own."""
    return {}


@figures_of.register
def _(result: Training) -> dict[str, Any]:
    return {"accuracy": result.validation} if result.validation.total else {}


@figures_of.register
def _(result: Robustness) -> dict[str, Any]:
    return {"accuracy": result.clean, "grid": result.grid, "pstar": result.pstar}


def baseline_of(record: Record, previous: Baseline | None = None) -> Baseline:
    """The baseline that a record makes; seconds of other machines stay where the digest is the same."""
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
    """Where a baseline lies.

    Raises:
        RobbenchError: a name would lead out of the folder.
    """
    for name in (suite, f"{case}.{stage}"):
        if not name or name.startswith(".") or set(name) & set("/\\:\0"):
            raise RobbenchError(f"baseline name: expected a plain file name, got {name!r}")
    return folder / suite / f"{case}.{stage}.json"


def read_baseline(folder: Path, suite: str, case: str, stage: str) -> Baseline | None:
    """The stored baseline of a stage, or None where there is none.

    Raises:
        RobbenchError: the file is damaged, or of another case.
    """
    path = baseline_path(folder, suite, case, stage)
    try:
        values = msgspec.json.decode(path.read_bytes())
        if values.pop("schema") != SCHEMA:
            raise ValueError("it has another schema")
        baseline = msgspec.convert(values, Baseline)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RobbenchError(f"baseline {str(path)!r} cannot be read: {error.strerror or error}") from error
    except (*UNREADABLE, AttributeError, KeyError, TypeError) as error:
        raise RobbenchError(
            f"baseline {str(path)!r}: expected a file of schema {SCHEMA!r} ({error}); "
            "restore it from version control, or remove it and write it anew with --robbench-update"
        ) from error
    if (baseline.suite, baseline.case, baseline.stage) != (suite, case, stage):
        raise RobbenchError(
            f"baseline {str(path)!r}: expected {suite}/{case}.{stage}, "
            f"it says {baseline.suite}/{baseline.case}.{baseline.stage}"
        )
    return baseline


def write_baseline(folder: Path, record: Record) -> Path:
    """Write or renew the baseline of a record's stage; returns its path.

    Raises:
        RobbenchError: a file of that name is not ours, or the folder cannot be written.
    """
    path = baseline_path(folder, record.suite, record.case, record.stage)
    previous = read_baseline(folder, record.suite, record.case, record.stage)
    write_atomically(path, encode_baseline(baseline_of(record, previous)).encode())
    return path


def encode_baseline(baseline: Baseline) -> str:
    """JSON with sorted keys, two-space indent, and lists of numbers on one line."""
    long_lists: dict[str, str] = {}

    def fold(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: fold(entry) for key, entry in value.items()}
        if isinstance(value, list) and all(isinstance(entry, int | float) for entry in value):
            mark = f"@list{len(long_lists)}@"
            long_lists[f'"{mark}"'] = json.dumps(value)
            return mark
        return [fold(entry) for entry in value] if isinstance(value, list) else value

    values = fold({"schema": SCHEMA} | msgspec.to_builtins(baseline))
    text = json.dumps(values, indent=2, sort_keys=True, ensure_ascii=False)
    for mark, line in long_lists.items():
        text = text.replace(mark, line)
    return text + "\n"
