"""Where a report's figures come from: the images, how p* was estimated, and the machines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from robbench.record import Record
from robbench.report.markdown import NOTHING, code, escape, table, text_table
from robbench.report.rows import Group


def data_table(records: Iterable[Record]) -> str:
    """The images that were really used; test images are those that p* was estimated on."""
    tested: dict[tuple[str, int, int, str], int] = {}
    for record in records:
        data = record.data
        key = data.name, data.train, data.validation, data.sha256
        tested[key] = max(tested.get(key, 0), data.test if record.robustness else 0)
    lines = [
        [escape(name), f"{train:,}", f"{validation:,}", f"{test:,}" if test else NOTHING, code(sha256[:12])]
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


def estimates(groups: Sequence[Group]) -> list[str]:
    """How p* was estimated, once per way."""
    ways: dict[str, None] = {}
    for row in (row for group in groups for row in group.all_rows):
        if row.robustness is None:
            continue
        grid, attack = row.robustness.grid, dict(row.robustness.attack)
        step = f"step {grid[1] - grid[0]:.4g}" if len(grid) > 1 else "one value"
        kind = attack.pop("kind", "attack")
        settings = ", ".join(f"{name} {value}" for name, value in sorted(attack.items()) if value is not None)
        ways[
            f"p\\* of {len(row.robustness.images):,} images of {escape(row.record.data.name)}: grid {grid[0]:g} to "
            f"{grid[-1]:g}, {step}; {escape(f'{row.robustness.search} search with {kind} ({settings})')}"
        ] = None
    return ["\n".join(f"- {way}" for way in ways)] if ways else []


def when(records: Sequence[Record]) -> str:
    """How many stages there are, and from when."""
    created = sorted(record.created for record in records)
    return f"{len(records)} stages, recorded from {escape(created[0])} to {escape(created[-1])} (UTC)."
