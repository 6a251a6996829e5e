"""Where a report's figures come from: the images, how p* was estimated, and the machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pandas as pd

from robbench.record import Record
from robbench.report.markdown import NOTHING, escape
from robbench.report.rows import Group


def data_table(records: Iterable[Record]) -> pd.DataFrame:
    """The images that were really used; test images are those that p* was estimated on."""
    tested: dict[tuple[str, int, int, str], int] = {}
    for record in records:
        key = record.data.name, record.data.train, record.data.validation, record.data.sha256
        tested[key] = max(tested.get(key, 0), record.data.test if record.robustness else 0)
    lines = [
        [escape(name), f"{train:,}", f"{validation:,}", f"{test:,}" if test else NOTHING, f"`{sha256[:12]}`"]
        for (name, train, validation, sha256), test in sorted(tested.items())
    ]
    return pd.DataFrame(lines, columns=["Dataset", "training images", "validation images", "test images", "SHA-256"])


def environment_table(records: Sequence[Record]) -> pd.DataFrame:
    """Where the stages ran: one column per environment, one line per property."""
    environments = sorted({record.environment for record in records}, key=repr)
    words = {True: "yes", False: "no", None: NOTHING}
    lines = []
    for field in environments[0].__struct_fields__ if environments else ():
        values = [getattr(environment, field) for environment in environments]
        shown = [words[value] if value is None or isinstance(value, bool) else escape(value) for value in values]
        lines.append([escape(field), *shown])
    counts = [sum(record.environment == environment for record in records) for environment in environments]
    lines.append(["stages", *map(str, counts)])
    return pd.DataFrame(lines, columns=["Property", *(escape(environment.slug) for environment in environments)])


def estimates(groups: Sequence[Group]) -> list[dict[str, str]]:
    """How p* was estimated, once per way."""
    ways: list[dict[str, str]] = []
    for row in (row for group in groups for row in group.all_rows):
        if (found := row.robustness) is None:
            continue
        grid, attack = found.grid, dict(found.attack)
        kind = attack.pop("kind", "attack")
        settings = ", ".join(f"{name} {value}" for name, value in sorted(attack.items()) if value is not None)
        way = {
            "images": f"{len(found.images):,} images of {row.record.data.name}",
            "grid": f"{grid[0]:g} to {grid[-1]:g}, "
            + (f"step {grid[1] - grid[0]:.4g}" if len(grid) > 1 else "one value"),
            "how": f"{found.search} search with {kind} ({settings})",
        }
        if way not in ways:
            ways.append(way)
    return ways
