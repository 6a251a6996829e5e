"""The 125 published rows (tables B.1 to B.9 of the thesis), to stand beside our own figures. No torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robbench.errors import RobbenchError
from robbench.record import ModelFacts
from robbench.spec import Model, Study

PACKAGED = Path(__file__).parents[1] / "published.csv"
"""Where a wheel carries the rows."""

CHECKOUT = Path(__file__).parents[2] / "baselines" / "published" / "results.csv"
"""Where a checkout carries them."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One row of the published tables."""

    table: str
    architecture: str
    label: str
    method: str
    """As in :class:`robbench.record.ModelFacts`."""
    source: str | None
    dataset: str
    k: int | None
    head: str
    accuracy: float
    """Clean accuracy as a share of the test set."""
    median_pstar: float
    train_seconds: float
    """Validation, checkpoint writing and an extra clean pass per batch included; one NVIDIA L4."""
    epochs: int

    @property
    def key(self) -> tuple[str, str, str | None, str, int | None, str]:
        """What a model must share with the row to be compared with it."""
        return self.architecture, self.method, self.source, self.dataset, self.k, self.head


@cache
def published_rows() -> tuple[Published, ...]:
    """All published rows, in the order of the tables.

    Raises:
        RobbenchError: the file is missing or damaged.
    """
    return read_published(PACKAGED if PACKAGED.exists() else CHECKOUT)


def read_published(path: Path) -> tuple[Published, ...]:
    """Published rows from a CSV file with the columns of ``baselines/published/results.csv``.

    Raises:
        RobbenchError: the file is missing or damaged, or names a model twice.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = tuple(_row(line) for line in csv.DictReader(file))
    except OSError as error:
        raise RobbenchError(f"published rows {str(path)!r} cannot be read: {error.strerror or error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise RobbenchError(
            f"published rows {str(path)!r}: expected the columns of the thesis's tables ({error})"
        ) from error
    keys = [row.key for row in rows]
    twice = sorted({row.label for row in rows if keys.count(row.key) > 1})
    if twice:
        raise RobbenchError(f"published rows {str(path)!r}: expected every model once, got {', '.join(twice)} again")
    return rows


def _row(line: dict[str, str]) -> Published:
    return Published(
        table=line["table"],
        architecture=line["arch"],
        label=line["label"],
        method=line["method"],
        source=line["source"] or None,
        dataset=line["dataset"],
        k=int(line["k"]) if line["k"] else None,
        head=line["head"],
        accuracy=float(line["accuracy"]),
        median_pstar=float(line["median_pstar"]),
        train_seconds=float(line["train_seconds"]),
        epochs=int(line["epochs"]),
    )


def published_row(model: ModelFacts | Model) -> Published | None:
    """The published row of the same network, method, data and transfer, or None where nothing comparable was published.

    Every published transfer has frozen kept blocks and an adversarially trained source model.
    """
    kept: str | None
    source_method: str | None
    if isinstance(model, Model):
        kept = model.transfer.kept if model.transfer else None
        source_method = model.source.method if model.source else None
        key = _key(model)
    else:
        kept, source_method = model.kept, model.source_method
        key = model.architecture, model.method, model.source, model.dataset, model.k, model.head
    if kept not in (None, "frozen") or source_method not in (None, "pgd") or model.variant is not None:
        return None
    return _by_key().get(key)


def published_models(study: Study) -> dict[str, Published]:
    """Ids of the study's models that were published, in the study's order, each with its row."""
    rows = {model.id: published_row(model) for model in study.models()}
    return {name: row for name, row in rows.items() if row is not None}


def _key(model: Model) -> tuple[str, str, str | None, str, int | None, str]:
    """As :attr:`Published.key`."""
    source, transfer = model.source, model.transfer
    return (
        model.architecture,
        model.method,
        source.dataset.name if source else None,
        model.dataset.name,
        transfer.k if transfer else None,
        transfer.head if transfer else "linear",
    )


@cache
def _by_key() -> dict[tuple[str, str, str | None, str, int | None, str], Published]:
    return {row.key: row for row in published_rows()}
