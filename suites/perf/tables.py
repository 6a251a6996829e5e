"""Tables of the performance report: what every group of measurements is about, and its figures.

A measurement is a dict, as :meth:`suites.perf.measuring.Perf.compare` keeps it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

Measurement = dict[str, Any]

NOTHING = "–"
"""Stands for a figure that does not exist."""

GROUPS = {
    "p*": "The first test images, each search once; the sequential procedure handles one image at a time and every probe "
    "in full. A smaller p\\* is a tighter upper bound. Passes are forward passes for each image that the network "
    "classifies correctly; arithmetic is that of the passes made, forward and back to the images. Of an even number the "
    "median is the lower middle one. All in float32.",
    "best known p*": "On images that the network classifies correctly; the best known p\\* of each is the smallest that any row "
    "found. The libraries' attacks go on below what the rows above them found. Forward passes for each image.",
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
    "pictures": "Drawn photographs as JPEG files of mixed sizes, brought to 224×224 and read once in random order as "
    "floats, by as many workers on both sides; 1000 ÷ ms an image are images a second. From the cache nothing is decoded.",
    "pictures' memory": "Megabytes of the process and its workers, at the most, while an epoch is read (proportional set "
    "size: pages that processes share count once).",
    "memory format": "The same step with the weights' channels last and contiguous.",
    "batch": "The attack on 512 images, in batches of the size that is the default and of others.",
    "threads": "The same step with one thread for each core, and with one alone.",
}


def tables(group: str, members: Sequence[Measurement]) -> str:
    """A group's tables, as Markdown."""
    makers = {
        "p*": _searches,
        "best known p*": _best_known,
        "p* quality": _quality,
        "growth": _growth,
        "pictures' memory": _memory,
    }
    return "\n\n".join(table(rows) for rows in makers.get(group, _ratios)(members))


def table(rows: Sequence[dict[str, str]]) -> str:
    """Rows as Markdown, without the columns that say nothing in any row."""
    frame = pd.DataFrame(rows).fillna(NOTHING)
    frame = frame.loc[:, (frame != NOTHING).any()]
    align = ["left", *["right"] * (frame.shape[1] - 1)]
    return str(frame.to_markdown(index=False, disable_numparse=True, colalign=align))


def in_order(members: Sequence[Measurement]) -> list[Measurement]:
    """By case: those that differ in their numbers alone stand together and ascend, otherwise as they came."""
    families: dict[str, int] = {}

    def key(member):
        family = re.sub(r"\d[\d,]*", "#", member["case"])
        numbers = [int(digits.replace(",", "")) for digits in re.findall(r"\d[\d,]*", member["case"])]
        return families.setdefault(family, len(families)), numbers

    return sorted(members, key=key)


def _ratios(members):
    """Time, passes, ratios to every reference, and arithmetic."""
    references = dict.fromkeys(name for member in members for name in member["ratios"])
    yield [
        {
            "case": member["case"],
            "ms an image": _digits(member["milliseconds_per_image"]),
            "passes an image": _passes(member["passes_per_image"]),
            **{f"against {name}": _factor(member["ratios"].get(name)) for name in references},
            "GFLOP/s": _whole(member["gflops"]),
            "peak, GFLOP/s": NOTHING if member["gflops"] is None else _whole(member["peak_gflops"]),
            "share of peak": _percent(member["share_of_peak"], 0),
        }
        for member in members
    ]


def _searches(members):
    """Both searches beside the sequential procedure: first their time, then their values."""
    times, values = [], []
    for member in members:
        name, fast, ratios = (
            member["case"].removesuffix(", fast search"),
            member["milliseconds_per_image"],
            member["ratios"],
        )
        for search, slower, faster in (
            ("sequential", ratios["sequential"], 1.0),
            ("reference", ratios["reference"], member["reference_over_sequential"]),
            ("fast", 1.0, ratios["sequential"]),
        ):
            work = member if search == "fast" else member["references"][search]
            times.append(
                {
                    "search": f"{name}, {search}",
                    "ms an image": _digits(fast * slower),
                    "passes an image": _passes(work["passes_per_image"]),
                    "against sequential": _factor(faster),
                    "median p\\*": _median(member["median_pstar"][search]),
                    **_arithmetic(work),
                }
            )
        values.append(
            {
                "network": name,
                "classified correctly": f"{member['correct']} of {member['images']}",
                "reference = sequential": _percent(member["reference_equal_to_sequential"]),
            }
        )
    return times, values


def _best_known(members):
    """Every search and attack beside the best of all of them, a table for each network."""
    for member in members:
        yield [
            {
                member["case"]: row["attack"],
                "passes": _passes(row["passes_per_image"]),
                "median p\\*": _median(row["median_pstar"]),
                "÷ best known, median": f"{row['median_ratio']:.3f}",
                "worst": f"{row['worst_ratio']:.2f} ({row['worst_steps']} steps)",
                "at most 2 steps above": _percent(row["at_most_two_steps_above"]),
            }
            for row in member["attacks"]
        ]


def _quality(members):
    yield [
        {
            "method": f"{member['case']}: {point['method']}",
            "passes an image": _passes(point["passes_per_image"]),
            "median p\\*": _median(point["median_pstar"]),
            "seconds": f"{point['seconds']:.1f}",
            "against reference": _factor(point["ratio"]),
            **_arithmetic(point),
        }
        for member in members
        for point in member["quality"]
    ]


def _growth(members):
    """Every case beside the smallest of its axis and search; then how each axis makes each search grow."""
    lines: dict[tuple[str, str], list[Measurement]] = {}
    for member in members:
        lines.setdefault((member["axis"], member["search"]), []).append(member)
    cases, fits = [], []
    for (axis, search), unsorted in lines.items():
        line = sorted(unsorted, key=lambda member: member["value"])
        cases += [
            {
                "case": member["case"],
                "ms": f"{milliseconds(member):,.0f}",
                "time by the smallest": _factor(milliseconds(member) / milliseconds(line[0])),
                "passes an image": _passes(member["passes_per_image"]),
                **_arithmetic(member),
            }
            for member in line
        ]
        grid = axis == "grid points"
        fits.append(
            {
                "growth": f"{axis}, {search} search",
                "time grows as size to the power of": NOTHING if grid else _exponent(line),
                "more passes with every doubling": _per_doubling(line) if grid else NOTHING,
            }
        )
    return cases, fits


def _memory(members):
    """A column for each number of images."""
    yield [
        {"case": member["case"], **{f"MB, {count} images": _whole(value) for count, value in member["memory"].items()}}
        for member in members
    ]


def milliseconds(member: Measurement) -> float:
    """Of the whole call."""
    return member["milliseconds_per_image"] * member["images"]


def _exponent(line):
    """The slope of a straight line through the logarithms of size and time; nothing for a single size."""
    if len({member["value"] for member in line}) < 2:
        return NOTHING
    sizes, times = np.log([(member["value"], milliseconds(member)) for member in line]).T
    return f"{np.polyfit(sizes, times, 1)[0]:.2f}"


def _per_doubling(line):
    """Between neighbours, how many more passes each doubling of the size costs."""
    more = [
        (large["passes_per_image"] - small["passes_per_image"]) / math.log2(large["value"] / small["value"])
        for small, large in pairwise(line)
    ]
    return ", ".join(f"{passes:+.0f}" for passes in more) or NOTHING


def _arithmetic(work):
    return {"GFLOP/s": _whole(work["gflops"]), "share of peak": _percent(work["share_of_peak"], 0)}


def _median(value):
    return "past the grid" if value is None else f"{value:g}"


def _factor(ratio):
    return NOTHING if ratio is None else f"× {ratio:.3g}"


def _digits(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _passes(value):
    return NOTHING if value is None else f"{value:.2f}" if value < 1 else f"{value:.0f}"


def _whole(value):
    return NOTHING if value is None else f"{value:,.0f}"


def _percent(share, digits=1):
    return NOTHING if share is None else f"{share:.{digits}%}"
