"""The two CSV files of a bundle: every figure of every model, and every p*."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from typing import Any

from robbench.record import MISCLASSIFIED
from robbench.report.ranking import common_medians
from robbench.report.robust_accuracy import fixed_epsilons, robust_share
from robbench.report.rows import Group, Row
from robbench.report.text import printable


def results_csv(groups: Sequence[Group]) -> bytes:
    """One row per model, every figure; a censored median is ``inf``, an empty field does not exist."""
    lines = [
        _result(row, common) for group in groups for common in [common_medians(group.rows)] for row in group.all_rows
    ]
    fields = list(dict.fromkeys(field for line in lines for field in line))
    return _csv(fields, ([line.get(field) for field in fields] for line in lines))


def _result(row: Row, common: dict[str, tuple[float | None, int]]) -> dict[str, Any]:
    facts, robustness, training, theirs = row.facts, row.robustness, row.training, row.published
    common_median, common_images = common.get(row.case, (None, None))
    names = (
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
    )
    return {
        "suite": row.suite,
        "case": row.case,
        "label": row.label,
        **{name: getattr(facts, name) for name in (*names, "parameters", "trainable")},
        "data_used": row.record.data.name,
        "test_images": robustness and robustness.clean.total,
        "correct_images": robustness and robustness.clean.correct,
        "clean_accuracy": row.accuracy,
        "median_pstar": row.median,
        "median_pstar_common": common_median,
        "common_images": common_images,
        "censored_images": robustness and robustness.censored,
        **{
            f"robust_accuracy_{epsilon:.4g}": robust_share(row, epsilon)
            for epsilon in (fixed_epsilons(robustness.grid) if robustness else ())
        },
        **{
            f"{attack.attack}_accuracy_{attack.epsilon:.4g}": attack.robust.share
            for attack in (robustness.attacks if robustness else ())
        },
        "training_seconds": row.seconds,
        "training_seconds_in_all": row.total_seconds,
        "estimation_seconds": row.tested and row.tested.seconds.estimation,
        "best_epoch": training and (training.best or None),
        "epochs": training and (len(training.epochs) or None),
        "machine": row.record.environment.slug,
        "published_accuracy": theirs and theirs.accuracy,
        "published_median_pstar": theirs and theirs.median_pstar,
        "published_seconds": theirs and theirs.train_seconds,
        "published_epochs": theirs and theirs.epochs,
    }


def pstar_csv_gz(groups: Sequence[Group]) -> bytes:
    """One row per model and test image: p* where found, and ``wrong``, ``found`` or ``censored``; gzip."""
    lines = ["suite,case,image,pstar,status\n"]
    for row in (row for group in groups for row in group.all_rows):
        if row.robustness is None:
            continue
        start = _csv(None, [[row.suite, row.case]]).decode().rstrip("\n")
        endings = [f"{value:.10g},found\n" for value in row.robustness.grid] + [",censored\n", ",wrong\n"]
        assert MISCLASSIFIED == -1
        lines += [
            f"{start},{image},{endings[place]}"
            for image, place in zip(row.robustness.images, row.robustness.pstar, strict=True)
        ]
    return gzip.compress("".join(lines).encode(), compresslevel=6, mtime=0)


def _csv(fields: Sequence[str] | None, lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if fields is not None:
        writer.writerow(map(printable, fields))
    writer.writerows(map(_shown, line) for line in lines)
    return text.getvalue().encode()


def _shown(value: Any) -> Any:
    """As a cell: text that a spreadsheet would take for a formula behind an apostrophe (OWASP, "CSV Injection")."""
    if isinstance(value, str):
        text = printable(value)
        return f"'{text}" if text.lstrip().startswith(("=", "+", "-", "@")) else text
    return f"{value:.10g}" if isinstance(value, float) else value
