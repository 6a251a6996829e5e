"""Tables of the performance report: for every group what it is about, and its measurements."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from robbench.report.markdown import NOTHING, escape, percent, table
from robbench.report.performance import Measurement, Work

GROUPS = {
    "p*": "The first test images, each search once; the sequential procedure handles one image at a time and every probe "
    "in full. A smaller p\\* is a tighter upper bound. Passes are forward passes for each image that the network "
    "classifies correctly; arithmetic is that of the passes made, forward and back to the images. Of an even number the "
    "median is the lower middle one. All in float32.",
    "bound of the fast search": "Both searches, PGD-40, on every network of the embedded suite and others trained for seconds: on how many of the images that it classifies correctly fast is at "
    "most one grid step above reference, and by how much it differs on average. Networks as in the p\\* table, `reference → fast`; GFLOP/s are those of fast.",
    "p* quality": "As many test images as in the p\\* table, but only such as the network classifies correctly. The "
    "libraries' attacks run with their own defaults, but for the numbers of steps and, for minimal APGD, ten steps of binary "
    "search below the grid's end as its greatest ε. Median p\\* by forward passes for each image, of an even "
    "number the lower middle one; the picture leaves out medians past the grid. Factors are by the reference search with 40 steps; all in float32.",
    "attack step": "Forward and backward towards the images, float32 on both sides.",
    "conventional training step": "One step of Adam on one batch, beside the loop that users write. On CUDA float32 means "
    "TF32, on both sides. The first layer's gradient towards the images is not needed, and not counted.",
    "adversarial training step": "Attack and update of one batch, beside the loop that users write: the "
    "library's attack, one step of Adam, on the network as PyTorch users write it. float32 rows compare float32 with float32 "
    "(on CUDA TF32, on both sides); bf16 rows compare our bf16 with the others' float32. Foolbox judges its result with one "
    "more forward pass.",
    "epoch": "A call of `train` with one epoch, its set-up, a warm-up update and a validation of 16 images included, "
    "which weigh most where an epoch has few batches (resnet18: four); theirs updates alone, from a DataLoader. On CUDA "
    "float32 means TF32. Arithmetic of the epoch's updates alone.",
    "transfer": "Conventional retraining, beside the whole network in every epoch: the frozen blocks' features are "
    "computed once, where that pays. The whole call, copying and set-up included; milliseconds and passes are for "
    "each image and epoch, a pass being the arithmetic of one through the whole network.",
    "growth": "Time of the whole search beside the smallest case of its axis and search; over images with PGD-10 in place "
    "of PGD-40. A batch has at most 256 images on the CPU, 4,096 on CUDA: time that stays "
    "in proportion past one batch shows that memory is bounded by the batch. Passes grow with the logarithm of the grid's "
    "points in the reference search, and more slowly in fast until the grid is fine. Passes are forward passes for each image that the network classifies correctly.",
    "memory format": "The same step with the weights' channels last and contiguous.",
    "batch": "The attack on 512 images, in batches of the size that is the default and of others.",
    "threads": "The same step with one thread for each core, and with one alone.",
}


def layout(group: str, members: Sequence[Measurement]) -> str:
    """A group's tables, as Markdown."""
    layouts = {"p*": _searches, "bound of the fast search": _bound, "p* quality": _quality, "growth": _growth}
    return layouts.get(group, _ratios)(members)


def in_order(members: Sequence[Measurement]) -> list[Measurement]:
    """By case: those that differ in their numbers alone stand together and ascend, otherwise as they came."""
    families: dict[str, int] = {}

    def key(member: Measurement) -> tuple[int, list[int]]:
        family = re.sub(r"\d[\d,]*", "#", member.case)
        return families.setdefault(family, len(families)), [*map(_number, re.findall(r"\d[\d,]*", member.case))]

    return sorted(members, key=key)


def _number(digits: str) -> int:
    return int(digits.replace(",", ""))


def _compact(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table without the columns that say nothing in any row."""
    kept = [place for place in range(len(headers)) if any(row[place] != NOTHING for row in rows)]
    return table([headers[place] for place in kept], [[row[place] for place in kept] for row in rows])


def _ratios(members: Sequence[Measurement]) -> str:
    """Time, passes, ratios to every reference, and arithmetic."""
    references = list(dict.fromkeys(name for member in members for name in member.ratios))
    rows = [
        [
            escape(member.case),
            _digits(member.milliseconds_per_image),
            _passes(member.passes_per_image),
            *(_factor(member.ratios.get(name)) for name in references),
            _whole(member.gflops),
            NOTHING if member.gflops is None else _whole(member.peak_gflops),
            percent(member.share_of_peak, 0),
        ]
        for member in members
    ]
    against = [f"against {escape(name)}" for name in references]
    headers = ["case", "ms an image", "passes an image", *against, "GFLOP/s", "peak, GFLOP/s", "share of peak"]
    return _compact(headers, rows)


def _searches(members: Sequence[Measurement]) -> str:
    """Both searches beside the sequential procedure, in time and then in value."""
    time_rows, value_rows = [], []
    for member in members:
        name, fast = escape(member.case.removesuffix(", fast search")), member.milliseconds_per_image
        ours = Work(passes_per_image=member.passes_per_image, gflops=member.gflops, share_of_peak=member.share_of_peak)
        over = member.reference_over_sequential
        for search, ratio, factor in (
            ("sequential", member.ratios.get("sequential"), 1.0),
            ("reference", member.ratios.get("reference"), over),
            ("fast", 1.0, member.ratios.get("sequential")),
        ):
            work = ours if search == "fast" else member.references.get(search, Work())
            time_rows.append(
                [
                    f"{name}, {search}",
                    NOTHING if ratio is None else _digits(fast * ratio),
                    _passes(work.passes_per_image),
                    _factor(factor),
                    _median(member.median_pstar.get(search)),
                    _whole(work.gflops),
                    percent(work.share_of_peak, 0),
                ]
            )
        value_rows.append(
            [
                name,
                NOTHING if member.correct is None else f"{member.correct} of {member.images}",
                percent(member.reference_equal_to_sequential),
                percent(member.fast_at_most_one_step_above_reference),
                _difference(member),
            ]
        )
    headers = [
        "search",
        "ms an image",
        "passes an image",
        "against sequential",
        "median p\\*",
        "GFLOP/s",
        "share of peak",
    ]
    values = [
        "network",
        "classified correctly",
        "reference = sequential",
        "fast at most one grid step above reference",
        "fast − reference, mean grid steps ± standard error",
    ]
    return f"{_compact(headers, time_rows)}\n\n{_compact(values, value_rows)}"


def _quality(members: Sequence[Measurement]) -> str:
    rows = [
        [
            f"{escape(member.case)}: {escape(point.method)}",
            _passes(point.passes_per_image),
            _median(point.median_pstar),
            f"{point.seconds:.1f}",
            _factor(point.ratio),
            _whole(point.gflops),
            percent(point.share_of_peak, 0),
        ]
        for member in members
        for point in member.quality
    ]
    headers = ["method", "passes an image", "median p\\*", "seconds", "against reference", "GFLOP/s", "share of peak"]
    return _compact(headers, rows)


def _growth(members: Sequence[Measurement]) -> str:
    """Every case beside the smallest of its axis and search; then how each axis makes each search grow."""
    lines: dict[tuple[str, str], list[Measurement]] = {}
    for member in members:
        lines.setdefault((member.axis or "", member.search or ""), []).append(member)
    rows, fits = [], []
    for (axis, search), unsorted in lines.items():
        line = sorted(unsorted, key=lambda member: member.value or 0.0)
        rows += [
            [
                escape(member.case),
                f"{_milliseconds(member):,.0f}",
                _factor(_milliseconds(member) / _milliseconds(line[0]) if _milliseconds(line[0]) else None),
                _passes(member.passes_per_image),
                _whole(member.gflops),
                percent(member.share_of_peak, 0),
            ]
            for member in line
        ]
        grid = axis == "grid points"
        fits.append(
            [
                f"{escape(axis)}, {escape(search)} search",
                NOTHING if grid else _exponent(line),
                (", ".join(_per_doubling(line)) or NOTHING) if grid else NOTHING,
            ]
        )
    cases = _compact(["case", "ms", "time by the smallest", "passes an image", "GFLOP/s", "share of peak"], rows)
    fitted = _compact(["growth", "time grows as size to the power of", "more passes with every doubling"], fits)
    return f"{cases}\n\n{fitted}"


def _milliseconds(member: Measurement) -> float:
    return member.milliseconds_per_image * member.images


def _exponent(line: Sequence[Measurement]) -> str:
    """The slope of a straight line through the logarithms of size and time; nothing where they have none."""
    known = [(m.value, _milliseconds(m)) for m in line if m.value and m.value > 0 and _milliseconds(m) > 0]
    if len({size for size, _ in known}) < 2:
        return NOTHING
    sizes, times = np.log(known).T
    return f"{np.polyfit(sizes, times, 1)[0]:.2f}"


def _per_doubling(line: Sequence[Measurement]) -> list[str]:
    """Between neighbours, how many more passes each doubling of the size costs."""
    known = [(m.value, m.passes_per_image) for m in line if m.value and m.value > 0 and m.passes_per_image is not None]
    return [
        f"{(more - fewer) / math.log2(larger / smaller):+.0f}"
        for (smaller, fewer), (larger, more) in pairwise(known)
        if larger > smaller
    ]


def _bound(members: Sequence[Measurement]) -> str:
    """Fast beside reference on many networks."""
    rows = []
    for member in members:
        reference = member.references.get("reference", Work())
        medians = _median(member.median_pstar.get("reference")), _median(member.median_pstar.get("fast"))
        rows.append(
            [
                escape(member.case),
                NOTHING if member.correct is None else f"{member.correct} of {member.images}",
                percent(member.fast_at_most_one_step_above_reference),
                _difference(member),
                " → ".join(medians),
                f"{_passes(reference.passes_per_image)} → {_passes(member.passes_per_image)}",
                _factor(member.ratios.get("reference")),
                _whole(member.gflops),
                percent(member.share_of_peak, 0),
            ]
        )
    headers = [
        "network",
        "classified correctly",
        "at most one step above",
        "mean difference in steps",
        "median p\\*",
        "passes an image",
    ]
    return _compact([*headers, "fast against reference", "GFLOP/s", "share of peak"], rows)


def _difference(member: Measurement) -> str:
    difference, error = member.fast_minus_reference_mean_steps, member.fast_minus_reference_standard_error
    return NOTHING if difference is None else f"{difference:+.2f} ± {error or 0.0:.2f}"


def _median(value: float | None) -> str:
    return "past the grid" if value is None else f"{value:g}"


def _factor(ratio: float | None) -> str:
    return NOTHING if ratio is None else f"× {ratio:.3g}"


def _digits(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _passes(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}" if value < 1 else f"{value:.0f}"


def _whole(value: Any) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
