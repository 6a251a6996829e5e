"""The 125 published rows (tables B.1 to B.9 of the thesis), to stand beside our own figures. No torch."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path

import msgspec

from robbench.record import ModelFacts

_FILES = (
    Path(__file__).parents[1] / "published.csv",  # in a wheel
    Path(__file__).parents[2] / "baselines" / "published" / "results.csv",  # in a checkout
)

_STEPS = {"mnist": 0.005, "emnist": 0.005, "cifar10": 0.001, "cifar100": 0.001}
"""Of the grids that the published code searched, in pixel units; CNN-4's is offset by 0.001."""

_Key = tuple[str, str, str | None, str, int | None, str]


class Published(
    msgspec.Struct, frozen=True, kw_only=True, rename={"architecture": "arch", "median_failing": "median_pstar"}
):
    """One row of the published tables."""

    architecture: str
    method: str
    """As in :class:`robbench.record.ModelFacts`."""
    source: str | None
    dataset: str
    k: int | None
    head: str
    accuracy: float
    """Clean accuracy as a share of the test set."""
    median_failing: float
    """As printed: the median of the highest ε of the grid at which the attack failed on an image."""
    train_seconds: float
    """Validation, checkpoint writing and an extra clean pass per batch included; one NVIDIA L4."""
    epochs: int

    @property
    def key(self) -> _Key:
        """What a model must share with the row to be compared with it."""
        return self.architecture, self.method, self.source, self.dataset, self.k, self.head

    @property
    def median_pstar(self) -> float:
        """Median p* on our scale, the smallest ε at which the attack succeeds: one grid step above the printed value."""
        return round(self.median_failing + _STEPS[self.dataset], 6)

    @property
    def source_row(self) -> Published:
        """Of a transfer: the adversarially trained model of the source data."""
        return _by_key()[self.architecture, "pgd", None, self.source or "", None, "linear"]

    @property
    def scratch_row(self) -> Published:
        """The model of the same data, adversarially trained from scratch."""
        return _by_key()[self.architecture, "pgd", None, self.dataset, None, "linear"]

    @property
    def retention(self) -> float:
        """Of a transfer: median p* ÷ that of its source."""
        return self.median_pstar / self.source_row.median_pstar

    @property
    def relative(self) -> float:
        """Relative robustness: median p* ÷ that of the model from scratch."""
        return self.median_pstar / self.scratch_row.median_pstar

    @property
    def speed_up(self) -> float:
        """Training seconds of the model from scratch ÷ its own."""
        return self.scratch_row.train_seconds / self.train_seconds


@cache
def published_rows() -> tuple[Published, ...]:
    """All published rows, in the order of the tables."""
    with next(file for file in _FILES if file.exists()).open(newline="", encoding="utf-8") as file:
        lines = [{name: value or None for name, value in line.items()} for line in csv.DictReader(file)]
    return msgspec.convert(lines, tuple[Published, ...], strict=False)


def published_row(facts: ModelFacts) -> Published | None:
    """The published row of the same network, method, data and transfer; None where nothing comparable was published."""
    # The published adversarial retraining of CIFAR-100 froze nothing (tables B.6 and B.9).
    kept = "warm" if (facts.method, facts.dataset) == ("transfer-adversarial", "cifar100") else "frozen"
    if facts.kept not in (None, kept) or facts.source_method not in (None, "pgd") or facts.variant or facts.objective:
        return None
    return _by_key().get((facts.architecture, facts.method, facts.source, facts.dataset, facts.k, facts.head))


@cache
def _by_key() -> dict[_Key, Published]:
    return {row.key: row for row in published_rows()}
