"""Reports of the performance suite: what ``pytest -m perf --benchmark-json FILE`` measured, as tables and pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.record import UNREADABLE, Environment
from robbench.report.markdown import NOTHING, escape, percent, table
from robbench.report.perf_figures import growth_png, quality_png
from robbench.writing import write_atomically

SCHEMA = "robbench.perf/1"

_GROUPS = {
    "p*": "200 test images, each search once; the sequential procedure handles one image at a time and every probe in "
    "full. A smaller p\\* is a tighter upper bound.",
    "bound of the fast search": "Both searches on every network of the embedded suite (drawn characters, 250 images, "
    "PGD-40): on how many images fast is at most one grid step above reference, and by how much it differs on average.",
    "p* quality": "Default settings of each library. Median p\\* of the images that the network classifies correctly, by forward passes for each of them; "
    "medians past the grid are in the table alone.",
    "attack step": "Forward and backward towards the images, float32. Share of peak: the arithmetic that a pass cannot "
    "do without, by that of a matrix product of the same precision in the same round.",
    "conventional training step": "One step of Adam on one batch, beside the loop that users write.",
    "adversarial training step": "Attack and update of one batch, beside the loop that users write: the "
    "library's attack, one step of Adam, on the network as PyTorch users write it, in float32. Foolbox judges its result "
    "with one more forward pass.",
    "epoch": "A call of `train` with one epoch, its set-up, a warm-up update and a validation of 16 images included; "
    "theirs updates alone, from a DataLoader.",
    "transfer": "Conventional retraining with the frozen blocks' features computed once, beside the whole network in "
    "every epoch. The whole call, copying and set-up included.",
    "growth": "Milliseconds for all images of the search, and passes for each.",
}


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One method with one budget: what it found for how many passes."""

    method: str
    passes_per_image: float
    median_pstar: float | None
    """None: censored, larger than the grid."""
    seconds: float


class Measurement(msgspec.Struct, frozen=True, kw_only=True):
    """One benchmark, as the ``perf`` fixture keeps it."""

    device: str
    group: str
    case: str
    images: int
    milliseconds_per_image: float
    passes_per_image: float | None = None
    precision: str = "float32"
    peak_gflops: float
    gflops: float | None = None
    share_of_peak: float | None = None
    ratios: dict[str, float] = {}
    """Seconds of each reference ÷ our seconds."""
    axis: str | None = None
    value: float | None = None
    search: str | None = None
    quality: list[Point] = []
    median_pstar: dict[str, float | None] = {}
    reference_passes_per_image: float | None = None
    reference_over_sequential: float | None = None
    reference_equal_to_sequential: float | None = None
    fast_at_most_one_step_above_reference: float | None = None
    fast_minus_reference_mean_steps: float | None = None
    fast_minus_reference_standard_error: float | None = None


class Performance(msgspec.Struct, frozen=True, kw_only=True):
    """All measurements of one run on one machine."""

    schema: str = SCHEMA
    environment: Environment
    measurements: list[Measurement]

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        if not self.measurements:
            raise ValueError("expected at least one measurement of the performance suite")


def read_performance(path: Path) -> Performance | None:
    """A file that :func:`write_performance` or pytest-benchmark wrote; None where it is another kind of file.

    Raises:
        RobbenchError: it is such a file, but damaged, or without any measurement of the performance suite.
    """
    try:
        content = msgspec.json.decode(path.read_bytes())
    except (OSError, *UNREADABLE):
        return None
    if not isinstance(content, dict) or not ({"benchmarks", "measurements"} & content.keys()):
        return None
    if isinstance(content.get("benchmarks"), list):
        found = [bench.get("extra_info", {}).get("perf") for bench in content["benchmarks"] if isinstance(bench, dict)]
        content = {
            "environment": content.get("machine_info", {}),
            "measurements": [perf for perf in found if perf is not None],
        }
    try:
        return msgspec.convert(content, Performance)
    except UNREADABLE as error:
        raise RobbenchError(f"performance results {str(path)!r}: {error}") from error


def merged(performances: Sequence[Performance]) -> list[Performance]:
    """One for each machine: a benchmark that several runs have counts as in the last of them."""
    found: dict[str, Performance] = {}
    for performance in performances:
        slug = performance.environment.slug
        before = found[slug].measurements if slug in found else []
        latest = {(m.group, m.case): m for m in (*before, *performance.measurements)}
        found[slug] = Performance(environment=performance.environment, measurements=[*latest.values()])
    return [*found.values()]


def write_performance(folder: Path, performance: Performance) -> Path:
    """Write ``perf-<machine>.md`` with its pictures and its figures as JSON; returns its path.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    name = f"perf-{performance.environment.slug}"
    of_group = _groups(performance)
    pictures = {
        "quality": quality_png([(m.case, m.quality) for m in of_group.get("p* quality", [])]),
        "growth": growth_png(of_group.get("growth", [])),
    }
    drawn = {kind: data for kind, data in pictures.items() if data}
    files = {f"{name}-{kind}.png": data for kind, data in drawn.items()}
    files[f"{name}.json"] = msgspec.json.format(msgspec.json.encode(performance), indent=1)
    files[f"{name}.md"] = _text(performance, of_group, {kind: f"{name}-{kind}.png" for kind in drawn}).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, data in files.items():
            write_atomically(folder / file, data)
    except OSError as error:
        raise RobbenchError(f"report folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return folder / f"{name}.md"


def _groups(performance: Performance) -> dict[str, list[Measurement]]:
    """Measurements by group, the known groups first and in their order."""
    names = [*_GROUPS, *sorted({m.group for m in performance.measurements} - _GROUPS.keys())]
    found = {name: [m for m in performance.measurements if m.group == name] for name in names}
    return {name: members for name, members in found.items() if members}


def _text(performance: Performance, groups: dict[str, list[Measurement]], pictures: dict[str, str]) -> str:
    where = performance.environment
    parts = [
        f"# Performance on {escape(where.slug)}",
        f"{escape(where.device)}, {where.cores} cores, {where.threads} threads, torch {escape(where.torch)}"
        + (f", CUDA {escape(where.cuda)}" if where.cuda else "")
        + f", robbench {escape(where.robbench)} at commit {escape((where.commit or 'unknown')[:7])}"
        + (" with changes" if where.dirty else "")
        + ". Made by `make perf`. Every ratio comes from interleaved rounds of one run, the best round of each (p\\*: one "
        "round); × 2 is twice as fast as the reference.",
    ]
    for name, members in groups.items():
        parts += [f"## {escape(name)}", _GROUPS.get(name, "")]
        if name == "p* quality" and "quality" in pictures:
            parts.append(f"![Median p* over passes for each method]({pictures['quality']})")
        if name == "growth" and "growth" in pictures:
            parts.append(f"![Time of p* over images, grid points and depth]({pictures['growth']})")
        layout = {"p*": _searches, "bound of the fast search": _bound, "p* quality": _quality, "growth": _growth}.get(
            name, _ratios
        )
        parts.append(layout(members))
    return "\n\n".join(part for part in parts if part) + "\n"


def _ratios(members: Sequence[Measurement]) -> str:
    """Time, ratios to every reference, and arithmetic."""
    references = list(dict.fromkeys(name for member in members for name in member.ratios))
    arithmetic = any(member.gflops for member in members)
    headers = ["case", "ms an image", *(f"against {escape(name)}" for name in references)]
    headers += ["GFLOP/s", "peak", "share"] if arithmetic else []
    rows = [
        [
            escape(member.case),
            _digits(member.milliseconds_per_image),
            *(_factor(member.ratios[name]) if name in member.ratios else NOTHING for name in references),
            *([_whole(member.gflops), _whole(member.peak_gflops), percent(member.share_of_peak, 0)] * arithmetic),
        ]
        for member in members
    ]
    return table(headers, rows)


def _searches(members: Sequence[Measurement]) -> str:
    """Both searches beside the sequential procedure, in time and then in value."""
    time_rows, value_rows = [], []
    for member in members:
        name, fast = escape(member.case.removesuffix(", fast search")), member.milliseconds_per_image
        sequential, reference = member.ratios.get("sequential", 0.0), member.ratios.get("reference", 0.0)
        over = member.reference_over_sequential
        for search, milliseconds, passes, factor in (
            ("sequential", fast * sequential, None, 1.0),
            ("reference", fast * reference, member.reference_passes_per_image, over),
            ("fast", fast, member.passes_per_image, sequential),
        ):
            shown = NOTHING if factor is None else _factor(factor)
            median = member.median_pstar.get(search)
            time_rows.append(
                [
                    f"{name}, {search}",
                    _digits(milliseconds),
                    NOTHING if passes is None else f"{passes:.0f}",
                    shown,
                    _median(median),
                ]
            )
        value_rows.append(
            [
                name,
                percent(member.reference_equal_to_sequential),
                percent(member.fast_at_most_one_step_above_reference),
                _difference(member),
            ]
        )
    times_table = table(["search", "ms an image", "passes an image", "against sequential", "median p\\*"], time_rows)
    values_table = table(
        [
            "network",
            "reference = sequential",
            "fast at most one grid step above reference",
            "fast − reference, mean grid steps ± standard error",
        ],
        value_rows,
    )
    return f"{times_table}\n\n{values_table}"


def _quality(members: Sequence[Measurement]) -> str:
    rows = [
        [
            f"{escape(member.case)}: {escape(point.method)}",
            f"{point.passes_per_image:.0f}",
            _median(point.median_pstar),
            f"{point.seconds:.1f}",
        ]
        for member in members
        for point in member.quality
    ]
    return table(["method", "passes an image", "median p\\*", "seconds"], rows)


def _growth(members: Sequence[Measurement]) -> str:
    rows = [
        [
            escape(member.case),
            f"{member.milliseconds_per_image * member.images:,.0f}",
            NOTHING if member.passes_per_image is None else f"{member.passes_per_image:.0f}",
        ]
        for member in members
    ]
    return table(["case", "ms", "passes an image"], rows)


def _bound(members: Sequence[Measurement]) -> str:
    """Fast beside reference on many networks."""
    rows = [
        [
            escape(member.case),
            percent(member.fast_at_most_one_step_above_reference),
            _difference(member),
            _median(member.median_pstar.get("reference")),
            _median(member.median_pstar.get("fast")),
            _whole(member.reference_passes_per_image),
            _whole(member.passes_per_image),
            _factor(member.ratios.get("reference", 0.0)),
        ]
        for member in members
    ]
    headers = ["network", "at most one step above", "mean difference in steps", "median p\\*, reference", "fast"]
    return table([*headers, "passes an image, reference", "fast", "against reference"], rows)


def _difference(member: Measurement) -> str:
    difference, error = member.fast_minus_reference_mean_steps, member.fast_minus_reference_standard_error
    return NOTHING if difference is None else f"{difference:+.2f} ± {error or 0.0:.2f}"


def _median(value: float | None) -> str:
    return "past the grid" if value is None else f"{value:g}"


def _factor(ratio: float) -> str:
    return f"× {ratio:.3g}"


def _digits(value: float) -> str:
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def _whole(value: Any) -> str:
    return NOTHING if value is None else f"{value:,.0f}"
