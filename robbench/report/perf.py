"""The report of the performance suite: its text, its pictures, and its figures as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path

import msgspec

from robbench.report.markdown import escape, table
from robbench.report.perf_figures import growth_png, quality_png
from robbench.report.perf_tables import GROUPS, in_order, layout
from robbench.report.performance import Measurement, Performance, Run
from robbench.store.files import only_writer, write_atomically


def write_performance(folder: Path, performance: Performance) -> Path:
    """Write ``perf-<machine>.md`` with its pictures and its figures as JSON; returns its path.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    name = f"perf-{performance.slug}"
    of_group = _groups(performance)
    pictures = {
        "quality": quality_png([(m.case, m.quality) for m in of_group.get("p* quality", [])]),
        "growth": growth_png(of_group.get("growth", [])),
    }
    drawn = {kind: data for kind, data in pictures.items() if data}
    files = {f"{name}-{kind}.png": data for kind, data in drawn.items()}
    files[f"{name}.json"] = msgspec.json.format(msgspec.json.encode(performance), indent=1)
    files[f"{name}.md"] = _text(performance, of_group, {kind: f"{name}-{kind}.png" for kind in drawn}).encode()
    with only_writer(folder):
        for file, data in files.items():
            write_atomically(folder / file, data)
    return folder / f"{name}.md"


def _groups(performance: Performance) -> dict[str, list[Measurement]]:
    """Measurements by group, the known groups first and in their order."""
    names = [*GROUPS, *sorted({m.group for m in performance.measurements} - GROUPS.keys())]
    found = {name: in_order([m for m in performance.measurements if m.group == name]) for name in names}
    return {name: members for name, members in found.items() if members}


def _text(performance: Performance, groups: dict[str, list[Measurement]], pictures: dict[str, str]) -> str:
    shown = {"quality": "Median p* over passes for each method", "growth": "Time of p* over images, grid points, depth"}
    parts = [f"# Performance on {escape(performance.slug)}", *_header(performance, groups)]
    targets = [(member.case, target) for members in groups.values() for member in members for target in member.targets]
    if targets:
        rows = [
            [
                escape(case.removesuffix(", fast search")),
                escape(t.what),
                f"{t.least:.3g}",
                f"{t.value:.3g}",
                "yes" if t.value >= t.least else "**no**",
            ]
            for case, t in targets
        ]
        parts += [
            "## targets",
            "What the suite itself asks for.",
            table(["case", "figure", "at least", "measured", "reached"], rows),
        ]
    for name, members in groups.items():
        parts += [f"## {escape(name)}", " ".join([*GROUPS.get(name, "").split(), _rounds(members)]).strip()]
        picture = name.removeprefix("p* ")
        if picture in pictures:
            parts.append(f"![{shown[picture]}]({pictures[picture]})")
        parts.append(layout(name, members))
    return "\n\n".join(part for part in parts if part) + "\n"


def _header(performance: Performance, groups: dict[str, list[Measurement]]) -> list[str]:
    """Where and when, how to read it, and on which images."""
    members = [member for group in groups.values() for member in group]
    reading = (
        "Every ratio is taken within a round, which runs what is compared one after the other; the median of the rounds counts. "
        "× 2 is twice as fast as the reference. Share of peak is the arithmetic that cannot be avoided, two operations for "
        "each product and sum of convolutions and matrix products, by the most that a matrix product of the same precision "
        "kept up in the same round. Networks whose p\\* is searched are trained, and may come from the store of "
        "an earlier run; speed elsewhere is that of untrained networks on random images."
    )
    named: dict[str, list[str]] = {}
    for member in members:
        if member.data and member.group not in named.setdefault(member.data, []):
            named[member.data].append(member.group)
    data = [f"{escape(name)} ({', '.join(map(escape, of))})" for name, of in named.items()]
    made = "Made by `pytest -m perf suites/perf --benchmark-json …`; `make perf` runs all of it."
    if len(performance.runs) == 1:
        where = f"{_run(performance.runs[0])}. {made}"
    else:
        parts = [
            f"- {_run(run)}: {_counted(m for m in members if m.run == place)}"
            for place, run in enumerate(performance.runs)
        ]
        where = f"{made} Put together of {len(parts)} runs:\n\n" + "\n".join(parts)
    return [where, reading + (f" Images: {'; '.join(data)}." if data else "")]


def _run(run: Run) -> str:
    where = run.environment
    return (
        f"{escape(where.device)}, {_many(where.cores, 'core')}, {_many(where.threads, 'thread')}, "
        f"torch {escape(where.torch)}"
        + (f", CUDA {escape(where.cuda)}" if where.cuda else "")
        + f", robbench {escape(where.robbench)} at commit {escape((where.commit or 'unknown')[:7])}"
        + (" with changes" if where.dirty else "")
        + (f", {escape(run.date[:10])}" if run.date else "")
    )


def _many(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _counted(members: Iterable[Measurement]) -> str:
    """How many of which group: ``attack step (5), growth (18)``."""
    return ", ".join(f"{escape(name)} ({len([*of])})" for name, of in groupby(members, key=lambda m: m.group))


def _rounds(members: Sequence[Measurement]) -> str:
    numbers = sorted({member.rounds for member in members if member.rounds})
    if not numbers:
        return ""
    if numbers == [1]:
        return "One round."
    return f"Median of {' or '.join(map(str, numbers))} rounds."
