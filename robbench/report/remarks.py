"""Facts that a report lists: few images, busy machines, missing models, the data, how p* was estimated, the machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec
import pandas as pd

from robbench.record import Record
from robbench.report.markdown import NOTHING, escape
from robbench.report.rows import FEW, Group
from robbench.report.seeds import models_of

ENOUGH = 1_000
"""Test images from which an accuracy is sure to two digits: its standard error is at most 1.6 points."""


NO_MEASURE = ", which is no measure, since the machine was busy with other work"
"""Behind a factor of seconds."""


def few_named(names: Sequence[str]) -> str:
    """The first four of several names, and how many more."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def few_images(group: Group) -> dict[str, int]:
    """Correct images of the models that have fewer than FEW in a seed: their medians say little."""
    counts = {
        model.rows[0].name: min((row.correct for row in model.rows if row.correct is not None), default=FEW)
        for model in models_of(group.all_rows)
    }
    return {name: count for name, count in counts.items() if count < FEW}


def doubted(group: Group) -> dict[str, dict[str, list[str]]]:
    """By search other than the study's own, the models whose audit has warnings, with these."""
    found: dict[str, dict[str, list[str]]] = {}
    for row in group.all_rows:
        for record in row.also:
            result = record.robustness
            if result and result.audit and result.audit.warnings:
                found.setdefault(result.search, {}).setdefault(row.name, result.audit.warnings)
    return found


def fewest_tested(groups: Sequence[Group]) -> int | None:
    """The least number of test images of a model, where that is fewer than ENOUGH."""
    rows = (row for group in groups for row in group.all_rows)
    count = min((len(row.robustness.images) for row in rows if row.robustness), default=ENOUGH)
    return count if count < ENOUGH else None


def busy(group: Group) -> dict[str, dict[str, float]]:
    """By kind of stage, models measured while other work had the cores, with their largest share of time waiting for a core."""
    found: dict[str, dict[str, float]] = {}
    for row in group.all_rows:
        for what, record in (("training", row.trained), ("p\\*", row.tested)):
            if record is not None and record.measured_busy:
                shares = found.setdefault(what, {})
                shares[row.name] = max(record.waiting_for_core, shares.get(row.name, 0.0))
    return found


def missing_models(missing: Sequence[str], suite: str) -> dict[str, list[str]]:
    """Models of a study with a missing stage (``suite/case.stage``), by architecture."""
    found: dict[str, list[str]] = {}
    stages = [name.removeprefix(f"{suite}/") for name in missing if name.startswith(f"{suite}/")]
    for case in dict.fromkeys(stage.rpartition(".")[0] for stage in stages):
        found.setdefault(case.partition("-")[0], []).append(case)
    return found


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


def normalisations(records: Iterable[Record]) -> dict[str, list[str]]:
    """The models behind every normalisation of pixels, by its mean and std; those that see plain pixels are left out."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        if record.model.mean is not None and record.model.std is not None:
            mean, std = (", ".join(f"{value:.4g}" for value in each) for each in (record.model.mean, record.model.std))
            found.setdefault(f"mean ({mean}), std ({std})", {})[record.case] = None
    return {values: [*cases] for values, cases in found.items()}


def environment_table(records: Sequence[Record]) -> pd.DataFrame:
    """Where the stages ran: one column per environment, whose hosts may be many, and one line per property."""
    ran = [(msgspec.structs.replace(each, host=None), each.host) for each in (record.environment for record in records)]
    environments = sorted({each for each, _ in ran}, key=repr)
    words = {"True": "yes", "False": "no", "None": NOTHING, "": NOTHING}
    frame = pd.DataFrame([msgspec.to_builtins(each) for each in environments], dtype=object).T
    frame.loc["host"] = [", ".join(sorted({host for of, host in ran if of == each and host})) for each in environments]
    frame = frame.map(lambda value: words.get(str(value), escape(value))).rename(escape)
    frame.columns = [escape(each.slug) for each in environments]
    frame.loc["stages"] = [str(sum(of == each for of, _ in ran)) for each in environments]
    return frame.rename_axis("Property").reset_index()


def machines(records: Sequence[Record]) -> list[str]:
    """Where the stages ran, a line for each class of machines and version."""
    found = Counter(
        f"{each.slug} ({each.device}, {each.threads} threads, Python {each.python}, torch {each.torch}), robbench "
        f"{each.robbench}{f' at {each.commit[:8]}' if each.commit else ''}{' with uncommitted changes' if each.dirty else ''}"
        for each in (record.environment for record in records)
    )
    counted = len(found) > 1
    return [machine + (f": {count} stages" if counted else "") for machine, count in sorted(found.items())]


def estimates(groups: Sequence[Group]) -> list[tuple[str, str, str]]:
    """How p* was estimated, once per way: images, grid, and search with its attack; in an ensemble, who found p*."""
    ways: dict[tuple[str, str, str], Counter[str]] = {}
    for row in (row for group in groups for row in group.all_rows):
        for found in (record.robustness for record in row.records if record.robustness):
            settings = [f"{name} {value}" for name, value in sorted(found.attack.items()) if value is not None]
            shown = ", ".join(text for text in settings if not text.startswith("kind "))
            images = f"{len(found.images):,} images of {row.record.data.name}"
            step = found.grid[1] - found.grid[0] if len(found.grid) > 1 else 0.0
            grid = f"{found.grid[0]:g} to {found.grid[-1]:g}, step {step:.4g}"
            grid += "" if found.norm == "linf" else f", in {found.norm.upper()}"
            attack = "" if found.attack["kind"] == "Attack" else f" with {found.attack['kind']} ({shown})"
            ways.setdefault((images, grid, f"{found.search} search{attack}"), Counter()).update(found.found_by)
    sets: dict[tuple[str, str], list[str]] = {}
    for (images, grid, how), finders in ways.items():
        sets.setdefault((grid, how + _finders(finders)), []).append(images)
    return [(", ".join(images), grid, how) for (grid, how), images in sets.items()]


def _finders(found: Counter[str]) -> str:
    """``; p* found by fast 1,203, adv_lib:fmn 88``."""
    return f"; p* found by {', '.join(f'{name} {count:,}' for name, count in found.items())}" if found else ""
