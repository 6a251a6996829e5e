"""The tables of a report: per architecture as B.1 to B.9 of the thesis, and the two CSV files."""

from __future__ import annotations

import csv
import gzip
import io
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from robbench.record import WRONG, Record
from robbench.report.answers import common_medians, fixed_epsilons
from robbench.report.markdown import NOTHING, escape, percent, pstar, seconds, signed, table, text_table
from robbench.report.rows import Group, Row


@dataclass(frozen=True)
class _Column:
    header: str
    value: Callable[[Row], float | None]
    show: Callable[[float | None, Row], str]


def model_table(group: Group) -> str:
    """Every model of an architecture: accuracy, median p*, robust accuracies, censored share, seconds, epochs."""
    columns = _columns(group)
    lines, several = [], len(group.seeds) > 1
    for label, rows in _by_label(group.rows):
        for row in rows:
            name = f"{label} (seed {row.facts.seed})" if several else label
            lines.append([escape(name), *(column.show(column.value(row), row) for column in columns), _epochs(row)])
        if len(rows) > 1:
            name = f"*{escape(label)}: median of {len(rows)} seeds [least to greatest]*"
            lines.append([name, *(_spread(column, rows) for column in columns), NOTHING])
    return table(["Model", *(column.header for column in columns), "epochs (best / all)"], lines)


def _columns(group: Group) -> list[_Column]:
    common = common_medians(group.rows)
    tested = [row.robustness for row in group.rows if row.robustness]
    epsilons = fixed_epsilons(tested[0].grid) if tested else ()

    def share(value: float | None, row: Row) -> str:
        return percent(value)

    def median(value: float | None, row: Row) -> str:
        return pstar(value, row.robustness.grid[-1] if row.robustness else math.nan)

    def common_median(value: float | None, row: Row) -> str:
        count = common.get(row.case, (None, 0))[1]
        return f"{median(value, row)} ({count:,})" if row.robustness else NOTHING

    return [
        _Column("clean accuracy", lambda row: row.accuracy, share),
        _Column("median p\\*", lambda row: row.median, median),
        _Column("median p\\* (common images)", lambda row: common.get(row.case, (None, 0))[0], common_median),
        *(
            _Column(f"robust accuracy at ε = {epsilon:.4g}", lambda row, at=epsilon: robust_share(row, at), share)  # type: ignore[misc]
            for epsilon in epsilons
        ),
        _Column("censored", censored_share, share),
        _Column("training seconds", lambda row: row.seconds, lambda value, row: seconds(value)),
    ]


def _by_label(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    labels: dict[str, list[Row]] = {}
    for row in rows:
        labels.setdefault(row.label, []).append(row)
    return [*labels.items()]


def _spread(column: _Column, rows: Sequence[Row]) -> str:
    pairs = sorted((value, number) for number, row in enumerate(rows) if (value := column.value(row)) is not None)
    if not pairs:
        return NOTHING
    values = [value for value, _ in pairs]

    def text(value: float) -> str:
        return column.show(value, rows[pairs[0][1]]).split(" (")[0]

    return f"{text(statistics.median(values))} [{text(values[0])} to {text(values[-1])}]"


def _epochs(row: Row) -> str:
    if row.training is None or not row.training.epochs:
        return NOTHING
    return f"{row.training.best} / {len(row.training.epochs)}"


def robust_share(row: Row, epsilon: float) -> float | None:
    """Robust accuracy at ``epsilon``; None without an estimate or where the model's grid lacks it."""
    robustness = row.robustness
    if robustness is None or not robustness.pstar or min(abs(value - epsilon) for value in robustness.grid) > 1e-9:
        return None
    return robustness.robust(epsilon).share


def censored_share(row: Row) -> float | None:
    """Share of the correct images that were never fooled inside the grid."""
    robustness = row.robustness
    return robustness.censored / robustness.clean.correct if robustness and robustness.clean.correct else None


def published_table(group: Group) -> str | None:
    """Our figures beside the published ones, or None where no model has a published row."""
    lines = []
    for row in group.rows:
        theirs = row.published
        if theirs is None:
            continue
        end = row.robustness.grid[-1] if row.robustness else math.nan
        finite = row.median is not None and math.isfinite(row.median)
        lines.append(
            [
                escape(f"{row.label} (seed {row.facts.seed})" if len(group.seeds) > 1 else row.label),
                percent(row.accuracy),
                percent(theirs.accuracy),
                NOTHING if row.accuracy is None else signed((row.accuracy - theirs.accuracy) * 100, 1),
                pstar(row.median, end),
                f"{theirs.median_pstar:g}",
                signed(row.median - theirs.median_pstar, 3) if finite and row.median is not None else NOTHING,
                seconds(row.total_seconds),
                f"{theirs.train_seconds:,.0f}",
                NOTHING if row.total_seconds is None else f"× {row.total_seconds / theirs.train_seconds:.2g}",
            ]
        )
    headers = ["Model", "accuracy", "published", "points", "median p\\*", "published", "difference"]
    return table([*headers, "seconds in all", "published", "factor"], lines) if lines else None


def data_table(records: Iterable[Record]) -> str:
    """The images that were really used; test images are those that p* was estimated on."""
    tested: dict[tuple[str, int, int, str], int] = {}
    for record in records:
        data = record.data
        key = data.name, data.train, data.validation, data.sha256
        tested[key] = max(tested.get(key, 0), data.test if record.robustness else 0)
    lines = [
        [escape(name), f"{train:,}", f"{validation:,}", f"{test:,}" if test else NOTHING, f"`{sha256[:12]}`"]
        for (name, train, validation, sha256), test in sorted(tested.items())
    ]
    return table(["Dataset", "training images", "validation images", "test images", "SHA-256"], lines)


def environment_table(records: Sequence[Record]) -> str:
    """Where the stages ran: one column per environment, one line per property."""
    environments = sorted({record.environment for record in records}, key=repr)
    counts = [sum(record.environment == environment for record in records) for environment in environments]
    lines = [
        [
            escape(field),
            *("yes" if v is True else "no" if v is False else escape(v) if v is not None else NOTHING for v in values),
        ]
        for field in (environments[0].__struct_fields__ if environments else ())
        for values in [[getattr(environment, field) for environment in environments]]
    ]
    lines.append(["stages", *(str(count) for count in counts)])
    return text_table(["Property", *(escape(environment.slug) for environment in environments)], lines)


def results_csv(groups: Sequence[Group]) -> bytes:
    """One row per model, every figure; a censored median is ``inf``, an empty field does not exist."""
    lines = [_result(row, common) for group in groups for common in [common_medians(group.rows)] for row in group.rows]
    fields = list(dict.fromkeys(field for line in lines for field in line))
    return _csv(fields, ([line.get(field) for field in fields] for line in lines))


def _result(row: Row, common: dict[str, tuple[float | None, int]]) -> dict[str, Any]:
    facts, robustness, training, theirs = row.facts, row.robustness, row.training, row.published
    common_median, common_images = common.get(row.case, (None, None))
    names = ("architecture", "dataset", "method", "source", "source_method", "k", "blocks", "head", "kept", "seed")
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
        "training_seconds": row.seconds,
        "training_seconds_in_all": row.total_seconds,
        "estimation_seconds": row.tested and row.tested.seconds.estimation,
        "best_epoch": training and (training.best or None),
        "epochs": training and (len(training.epochs) or None),
        "machine": row.record.environment.slug,
        "published_accuracy": theirs and theirs.accuracy,
        "published_median_pstar": theirs and theirs.median_pstar,
        "published_seconds": theirs and theirs.train_seconds,
    }


def pstar_csv_gz(groups: Sequence[Group]) -> bytes:
    """One row per model and test image: p* where found, and ``wrong``, ``found`` or ``censored``; gzip."""
    lines = ["suite,case,image,pstar,status\n"]
    for row in (row for group in groups for row in group.rows):
        if row.robustness is None:
            continue
        start = _csv(None, [[row.suite, row.case]]).decode().rstrip("\n")
        endings = [f"{value:.10g},found\n" for value in row.robustness.grid] + [",censored\n", ",wrong\n"]
        assert WRONG == -1
        lines += [
            f"{start},{image},{endings[place]}"
            for image, place in zip(row.robustness.images, row.robustness.pstar, strict=True)
        ]
    return gzip.compress("".join(lines).encode(), compresslevel=6, mtime=0)


def _csv(fields: Sequence[str] | None, lines: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if fields is not None:
        writer.writerow(fields)
    writer.writerows([f"{value:.10g}" if isinstance(value, float) else value for value in line] for line in lines)
    return text.getvalue().encode()
