"""The 125 published rows (tables B.1 to B.9 of the thesis), to stand beside our own figures. No torch."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from robbench.record import ModelFacts

_PACKAGED = Path(__file__).parents[1] / "published.csv"
"""Where a wheel carries the rows."""

_CHECKOUT = Path(__file__).parents[2] / "baselines" / "published" / "results.csv"
"""Where a checkout carries them."""

_Key = tuple[str, str, str | None, str, int | None, str]


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
    def key(self) -> _Key:
        """What a model must share with the row to be compared with it."""
        return self.architecture, self.method, self.source, self.dataset, self.k, self.head

    @property
    def source_row(self) -> Published | None:
        """The adversarially trained model of the source data."""
        return _by_key().get((self.architecture, "pgd", None, self.source or "", None, "linear"))

    @property
    def scratch_row(self) -> Published | None:
        """The model of the same data, adversarially trained from scratch."""
        return _by_key().get((self.architecture, "pgd", None, self.dataset, None, "linear"))


@cache
def published_rows() -> tuple[Published, ...]:
    """All published rows, in the order of the tables."""
    with (_PACKAGED if _PACKAGED.exists() else _CHECKOUT).open(newline="", encoding="utf-8") as file:
        return tuple(_row(line) for line in csv.DictReader(file))


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


def published_row(facts: ModelFacts) -> Published | None:
    """The published row of the same network, method, data and transfer, or None where nothing comparable was published.

    Every published transfer has frozen kept blocks and an adversarially trained source model.
    """
    if facts.kept not in (None, "frozen") or facts.source_method not in (None, "pgd") or facts.variant is not None:
        return None
    return _by_key().get((facts.architecture, facts.method, facts.source, facts.dataset, facts.k, facts.head))


@cache
def _by_key() -> dict[_Key, Published]:
    return {row.key: row for row in published_rows()}
