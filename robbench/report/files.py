"""The two CSV files of a bundle: every figure of every model, and every p*."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from robbench.record import MISCLASSIFIED, LowerBounds
from robbench.report.choice import expected_robustness
from robbench.report.comparisons import fixed_epsilons
from robbench.report.ranking import common_images, ranking_epsilon
from robbench.report.rows import Group, Row

_FACTS = [
    "architecture",
    "dataset",
    "method",
    "source",
    "source_method",
    "k",
    "blocks",
    "head",
    "kept",
    "seed",
    "variant",
    "parameters",
    "trainable",
]


def results_csv(groups: Sequence[Group]) -> bytes:
    """One row per model, every figure; a censored median is ``inf``, an empty field does not exist."""
    rows = []
    for group in groups:
        common, epsilon = common_images(group.rows), ranking_epsilon(group)
        rows += [_figures(row, common.get(row.case), epsilon) for row in group.all_rows]
    return _csv(pd.DataFrame(rows))


def _figures(row: Row, common: Row | None, epsilon: float | None) -> dict[str, Any]:
    robustness, training, theirs = row.robustness, row.training, row.published
    epsilons = fixed_epsilons(robustness.grid) if robustness else ()
    return {
        "suite": row.suite,
        "case": row.case,
        "label": row.label,
        **{name: getattr(row.facts, name) for name in _FACTS},
        "data_used": row.record.data.name,
        "test_images": robustness and robustness.clean.total,
        "correct_images": robustness and robustness.clean.correct,
        "clean_accuracy": row.accuracy,
        **({} if row.balanced_accuracy is None else {"balanced_accuracy": row.balanced_accuracy}),
        "median_pstar": row.median,
        **{f"median_pstar_{each.result.search}": each.result.median for each in row.also},
        "median_pstar_common": common and common.median,
        "common_images": common and common.correct,
        "expected_robustness": expected_robustness(row, 0.0, epsilon) if epsilon else None,
        "censored_images": robustness and robustness.censored,
        "median_certified": row.bounds and row.bounds.median,
        "exact": row.bounds.exact.share if row.bounds and row.bounds.exact.total else None,
        **{f"robust_accuracy_{epsilon:.4g}": row.robust(epsilon) for epsilon in epsilons},
        **{
            f"{each.attack}_accuracy_{each.epsilon:.4g}": each.robust.share
            for each in (robustness.attacks if robustness else ())
        },
        "training_seconds": row.seconds,
        "training_seconds_in_all": row.total_seconds,
        "estimation_seconds": row.tested and row.tested.seconds.estimation,
        "best_epoch": training and (training.best or None),
        "epochs": training and (len(training.epochs) or None),
        **row.other_figures,
        "machine": row.record.environment.slug,
        "published_accuracy": theirs and theirs.accuracy,
        "published_median_pstar": theirs and theirs.median_pstar,
        "published_seconds": theirs and theirs.train_seconds,
        "published_epochs": theirs and theirs.epochs,
    }


def pstar_csv_gz(groups: Sequence[Group]) -> bytes:
    """One row per model, search and test image: p* where found, and ``wrong``, ``found`` or ``censored``; gzip.

    The certified radius is empty where an image is wrong or was not bounded.
    """
    frames = [pd.DataFrame(columns=["suite", "case", "search", "image", "pstar", "status", "certified_radius"])]
    for row in (row for group in groups for row in group.all_rows):
        certified = _certified(row.bounds) if row.bounds else {}
        for found in (record.robustness for record in row.records if record.robustness):
            index, grid = np.asarray(found.pstar, dtype=int), found.grid
            assert MISCLASSIFIED == -1  # as an index, the last
            shown = np.asarray([*(f"{value:.10g}" for value in grid), "", ""], dtype=object)
            status = np.asarray([*["found"] * len(grid), "censored", "wrong"], dtype=object)
            figures = {"image": found.images, "pstar": shown[index], "status": status[index]}
            figures["certified_radius"] = [certified.get(image, "") for image in found.images]
            frames.append(pd.DataFrame({"suite": row.suite, "case": row.case, "search": found.search, **figures}))
    return gzip.compress(_csv(pd.concat(frames)), compresslevel=6, mtime=0)


def _certified(bounds: LowerBounds) -> dict[int, str]:
    """The certified radius of every correct image."""
    pairs = zip(bounds.images, bounds.lower, strict=True)
    return {image: f"{bounds.grid[low]:.10g}" for image, low in pairs if low != MISCLASSIFIED}


def _csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, float_format="%.10g", lineterminator="\n").encode()
