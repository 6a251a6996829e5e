"""The report of the performance suite: its text, its pictures, and its figures as JSON.

``python -m suites.perf.rendering .benchmarks/perf.json --output reports/perf`` reads what
``pytest -m perf --benchmark-json FILE`` left, or the JSON of earlier reports. Several files make one report for each
machine; of a benchmark that several of them have, the last one given counts.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from suites.perf.figures import draw_growth, draw_quality
from suites.perf.tables import GROUPS, Measurement, in_order, table, tables

SCHEMA = "robbench.perf/2"

PICTURES = {
    "p* quality": ("quality", "Median p* over passes for each method", draw_quality),
    "growth": ("growth", "Time of p* over images, grid points, depth", draw_growth),
}

READING = """\
Every ratio is taken within a round, which runs what is compared one after the other; the median of the rounds counts. \
× 2 is twice as fast as the reference. Share of peak is the arithmetic that cannot be avoided, two operations for \
each product and sum of convolutions and matrix products, by the most that a matrix product of the same precision \
kept up in the same round. Networks whose p\\* is searched are trained, and may come from the store of \
an earlier run; speed elsewhere is that of untrained networks on random images."""


def read(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """The measurements of several files, one dict with ``runs`` and ``measurements`` for each class of machine.

    Raises:
        ValueError: a file has no measurement of the performance suite.
    """
    found: dict[str, dict[tuple[str, str], tuple[dict, Measurement]]] = {}
    for path in paths:
        content = json.loads(path.read_bytes())
        if "benchmarks" in content:
            runs = [{"environment": content["machine_info"], "date": content["datetime"]}]
            infos = [benchmark["extra_info"] for benchmark in content["benchmarks"]]
            measurements = [info["perf"] for info in infos if "perf" in info]
        else:
            runs, measurements = content["runs"], content["measurements"]
        if not measurements:
            raise ValueError(f"{path}: expected a measurement of the performance suite, got none")
        for member in measurements:
            run = runs[member.get("run", 0)]
            latest = found.setdefault(run["environment"]["slug"], {})
            latest[member["group"], member["case"]] = run, member
    return [_together(list(latest.values())) for latest in found.values()]


def _together(made: list[tuple[dict, Measurement]]) -> dict[str, Any]:
    """Measurements with the runs that they come from, each run once, in the order of their dates."""
    runs: list[dict] = []
    for run, _ in made:
        if run not in runs:
            runs.append(run)
    runs.sort(key=lambda run: run["date"])
    return {"schema": SCHEMA, "runs": runs, "measurements": [member | {"run": runs.index(run)} for run, member in made]}


def write(folder: Path, performance: dict[str, Any]) -> Path:
    """Write ``perf-<machine>.md`` with its pictures and its figures as JSON; returns its path."""
    slug = performance["runs"][-1]["environment"]["slug"]
    path, groups = folder / f"perf-{slug}.md", _groups(performance["measurements"])
    folder.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".json").write_text(json.dumps(performance, indent=1, ensure_ascii=False), encoding="utf-8")
    parts = [f"# Performance on {slug}", *_header(performance["runs"], groups), *_targets(groups)]
    for name, members in groups.items():
        parts += [f"## {_escaped(name)}", f"{GROUPS.get(name, '')} {_rounds(members)}".strip()]
        if name in PICTURES:
            kind, alt, draw = PICTURES[name]
            picture = folder / f"perf-{slug}-{kind}.png"
            draw(members, picture)
            parts.append(f"![{alt}]({picture.name})")
        parts.append(tables(name, members))
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    return path


def _groups(measurements: Sequence[Measurement]) -> dict[str, list[Measurement]]:
    """Measurements by group, the known groups first and in their order."""
    names = dict.fromkeys([*GROUPS, *sorted({member["group"] for member in measurements})])
    found = {name: in_order([member for member in measurements if member["group"] == name]) for name in names}
    return {name: members for name, members in found.items() if members}


def _header(runs: list[dict], groups: dict[str, list[Measurement]]) -> list[str]:
    """Where and when, how to read it, and on which images."""
    members = [member for group in groups.values() for member in group]
    named: dict[str, dict[str, None]] = {}
    for member in members:
        if member.get("data"):
            named.setdefault(member["data"], {})[_escaped(member["group"])] = None
    images = "; ".join(f"{name} ({', '.join(of)})" for name, of in named.items())
    made = "Made by `pytest -m perf suites/perf --benchmark-json …`; `make perf` runs all of it."
    if len(runs) == 1:
        where = f"{_run(runs[0])}. {made}"
    else:
        lines = [
            f"- {_run(run)}: {_counted(member for member in members if member['run'] == number)}"
            for number, run in enumerate(runs)
        ]
        where = f"{made} Put together of {len(lines)} runs:\n\n" + "\n".join(lines)
    return [where, f"{READING} Images: {images}." if images else READING]


def _targets(groups: dict[str, list[Measurement]]) -> list[str]:
    rows = [
        {
            "case": member["case"].removesuffix(", fast search"),
            "figure": target["what"],
            "at least": f"{target['least']:.3g}",
            "measured": f"{target['value']:.3g}",
            "reached": "yes" if target["value"] >= target["least"] else "**no**",
        }
        for members in groups.values()
        for member in members
        for target in member.get("targets", [])
    ]
    return ["## targets", "What the suite itself asks for.", table(rows)] if rows else []


def _run(run: dict) -> str:
    where = run["environment"]
    parts = [
        where["device"],
        *(f"{where[name]} {name if where[name] != 1 else name[:-1]}" for name in ("cores", "threads")),
        f"torch {where['torch']}",
        *([f"CUDA {where['cuda']}"] if where["cuda"] else []),
        f"robbench {where['robbench']} at commit {(where['commit'] or 'unknown')[:7]}"
        + (" with changes" if where["dirty"] else ""),
        run["date"][:10],
    ]
    return ", ".join(parts)


def _counted(members: Iterable[Measurement]) -> str:
    """How many of which group: ``attack step (5), growth (18)``."""
    groups = groupby(members, key=lambda member: member["group"])
    return ", ".join(f"{_escaped(name)} ({len([*of])})" for name, of in groups)


def _rounds(members: Sequence[Measurement]) -> str:
    numbers = sorted({member["rounds"] for member in members})
    return "One round." if numbers == [1] else f"Median of {' or '.join(map(str, numbers))} rounds."


def _escaped(text: str) -> str:
    return text.replace("*", "\\*")


def main(arguments: Sequence[str] | None = None) -> int:
    """Render files of results; returns the exit status: 0, or 2 for bad input."""
    parser = argparse.ArgumentParser(prog="python -m suites.perf.rendering", description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="--benchmark-json of `pytest -m perf`")
    parser.add_argument("-o", "--output", type=Path, default=Path("reports/perf"), metavar="DIR")
    options = parser.parse_args(arguments)
    try:
        for performance in read(options.files):
            print(write(options.output, performance))
    except (OSError, ValueError, KeyError) as error:
        print(f"rendering: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
