"""Reading and writing ``baselines/<suite>/<case>.<stage>.json``: small, sorted, readable in a diff. No torch."""

from __future__ import annotations

import json
from itertools import pairwise
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
    Struct,
    sha256_of,
)
from robbench.store.files import only_writer, write_atomically

SCHEMA = "robbench.baseline/1"


class Distribution(Struct, frozen=True, kw_only=True):
    """Counts of correct images per p*: every statistic can be recomputed from them."""

    grid: list[float]
    counts: list[int]
    """One per grid value, then the censored."""
    pstar: list[int] | None = None
    """Per test image, as in :class:`robbench.record.Robustness`: what the same images are compared by, one by one. None
    in files that were written without."""

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.grid) + 1 or min(self.counts) < 0:
            raise ValueError("expected one count ≥ 0 per grid value, and one for the censored images")
        if not self.grid or self.grid[0] < 0 or not all(low < high for low, high in pairwise(self.grid)):
            raise ValueError("expected ascending radii ≥ 0 in grid")
        if self.pstar is not None:
            if not all(MISCLASSIFIED <= place < len(self.counts) for place in self.pstar):
                raise ValueError(f"expected numbers from {MISCLASSIFIED} to {len(self.grid)} in pstar")
            if [self.pstar.count(place) for place in range(len(self.counts))] != self.counts:
                raise ValueError("expected as many images of every p* in pstar as in counts")


class Baseline(Struct, frozen=True, kw_only=True):
    """What a stage of a case is held to.

    A robustness stage's accuracy and p* stand in two places each, and a file that contradicts itself is refused, whatever
    its checksum says.
    """

    schema: str = SCHEMA
    suite: str
    case: str
    stage: str
    digest: str
    spec: dict[str, Any]
    data: DataUsed
    seed: int
    accuracy: Counts | None = None
    """Test accuracy of a robustness stage, validation accuracy of a training stage."""
    distribution: Distribution | None = None
    seconds: dict[str, Duration]
    """Measured seconds per machine slug, all of this digest."""
    environment: Environment
    """Where accuracy and robustness were last measured."""
    sha256: str | None = None
    """Over all of the above, as canonical JSON; None in files from before it existed, or that were changed on purpose."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        images = self.data.test if self.stage == "robustness" else self.data.validation
        if self.accuracy is not None and self.accuracy.total != images:
            raise ValueError(f"expected accuracy of the {images} images of data, got {self.accuracy.total}")
        if (self.distribution is not None) != (self.stage == "robustness"):
            raise ValueError(f"expected a distribution of p* of a robustness stage alone, this is {self.stage}")
        if self.distribution is not None:
            counted, right = sum(self.distribution.counts), self.accuracy and self.accuracy.correct
            if counted != right:
                raise ValueError(f"expected a p* of the {right} correct images, got {counted}")
            if self.distribution.pstar is not None and len(self.distribution.pstar) != images:
                raise ValueError(f"expected a p* of {images} images, got {len(self.distribution.pstar)}")


def baseline_path(folder: Path, suite: str, case: str, stage: str) -> Path:
    """Where a baseline lies.

    Raises:
        RobbenchError: a name would lead out of the folder.
    """
    for name in (suite, f"{case}.{stage}"):
        if not name or name.startswith(".") or set(name) & set("/\\\0:"):
            raise RobbenchError(f"baseline name: expected a plain file name, got {name!r}")
    return folder / suite / f"{case}.{stage}.json"


def baseline_of(record: Record, previous: Baseline | None = None) -> Baseline:
    """The baseline that a record makes; seconds of other machines stay where the digest is the same."""
    robustness, training = record.robustness, record.training
    kept = previous.seconds if previous is not None and previous.digest == record.digest else {}
    accuracy = distribution = None
    if robustness is not None:
        accuracy = robustness.clean
        counts = robustness.distribution().tolist()
        distribution = Distribution(grid=robustness.grid, counts=counts, pstar=robustness.pstar)
    elif training is not None and training.validation.total:
        accuracy = training.validation
    return Baseline(
        suite=record.suite,
        case=record.case,
        stage=record.stage,
        digest=record.digest,
        spec=record.spec,
        data=record.data,
        seed=record.model.seed,
        accuracy=accuracy,
        distribution=distribution,
        seconds={**kept, record.environment.slug: round(record.seconds.measured, 3)},
        environment=record.environment,
    )


def read_baseline(folder: Path, suite: str, case: str, stage: str) -> Baseline | None:
    """The stored baseline of a stage, or None where there is none.

    Raises:
        RobbenchError: the file is damaged, of another schema, of another case, or not ours.
    """
    path = baseline_path(folder, suite, case, stage)
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RobbenchError(f"baseline {str(path)!r} cannot be read: {error.strerror or error}") from error
    try:
        baseline, values = msgspec.json.decode(data, type=Baseline), msgspec.json.decode(data)
    except UNREADABLE as error:
        raise RobbenchError(
            f"baseline {str(path)!r}: expected a file of schema {SCHEMA!r} ({error}); "
            "restore it from version control, or remove it and write it anew with --robbench-update"
        ) from error
    if baseline.sha256 is not None and baseline.sha256 != sha256_of(values):
        raise RobbenchError(
            f"baseline {str(path)!r} was altered: its SHA-256 is not the one that was written; restore it from version "
            'control, or remove its line "sha256" if the change is meant'
        )
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
    with only_writer(path.parent):  # another process may be about to add the seconds of another machine
        previous = read_baseline(folder, record.suite, record.case, record.stage)
        values = msgspec.to_builtins(baseline_of(record, previous))
        values["sha256"] = sha256_of(values)
        write_atomically(path, _readable(values).encode())
    return path


def _readable(values: Any) -> str:
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

    text = json.dumps(fold(values), indent=2, sort_keys=True, ensure_ascii=False)
    for mark, line in long_lists.items():
        text = text.replace(mark, line)
    return text + "\n"
