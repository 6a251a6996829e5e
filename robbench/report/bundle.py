"""The bundle: a folder with ``report.md``, figures, tables, every p* and the records all of it can be made from again."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Verdict
from robbench.record import UNREADABLE, Record, Struct
from robbench.report.ablation import draw_ablation, effects
from robbench.report.answers import answers, compared
from robbench.report.boxes_and_curves import draw_boxes, draw_ecdf
from robbench.report.certified import draw_brackets
from robbench.report.classes import classes_csv
from robbench.report.dots import draw_answers
from robbench.report.drawing import Picture, file_name
from robbench.report.durations import draw_seconds, draw_study_seconds
from robbench.report.files import pstar_csv_gz, results_csv
from robbench.report.html import report_html
from robbench.report.markdown import many
from robbench.report.page import report_text
from robbench.report.rows import Group, group_records, studies
from robbench.report.seeds import models_of
from robbench.report.tradeoff import draw_study_tradeoff, draw_tradeoff
from robbench.store.files import check_writable, write_atomically


class Bundle(Struct, frozen=True, kw_only=True):
    """Everything a report says, as data."""

    schema: Literal["robbench.bundle/1"] = "robbench.bundle/1"
    title: str
    command: str
    """The command that made the records."""
    notes: list[str] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    records: list[Record] = msgspec.field(default_factory=list)
    missing: list[str] = msgspec.field(default_factory=list)
    """Stages that the studies ask for and no record has: ``suite/case.stage``."""
    tolerances: dict[str, dict[str, float | None]] = msgspec.field(default_factory=dict)
    """What the markers of the tests declare, by ``suite/stage``; None is infinite, which JSON is not."""
    accuracy_floors: dict[str, float] = msgspec.field(default_factory=dict)
    """Clean accuracy below which no model is recommended, by the suites that declare one."""


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write or renew a bundle, all of it or nothing; returns the path of its ``report.md``.

    The same bundle always gives the same bytes. Pictures of the report that was there go; other files stay.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    files, folder = render(bundle), Path(folder)
    check_writable(folder)
    report = folder / "report.md"
    old = report.read_text(encoding="utf-8", errors="replace") if report.exists() else ""
    for path, data in files.items():
        write_atomically(folder / path, data)
    for path in set(re.findall(r"\]\((figures/[\w.-]+\.png)\)", old)) - files.keys():
        (folder / path).unlink(missing_ok=True)
    return report


def render(bundle: Bundle) -> dict[str, bytes]:
    """The files of a bundle by their path within it."""
    groups = group_records(bundle.records, bundle.accuracy_floors)
    pictures: dict[tuple[str, ...], list[Picture]] = {(suite,): draw_study(found) for suite, found in studies(groups)}
    pictures |= {(group.suite, group.architecture): draw(group) for group in groups}
    said: dict[str, Any] = {name: getattr(bundle, name) for name in ("title", "command", "notes", "missing")}
    classes = classes_csv(groups)
    text = report_text(groups, pictures, verdicts=_in_order(bundle.verdicts), **said)
    return {
        **{f"figures/{picture.name}": picture.png for images in pictures.values() for picture in images},
        "results.csv": results_csv(groups),
        **({"classes.csv": classes} if classes else {}),
        "pstar.csv.gz": pstar_csv_gz(groups),
        "records.json": encode_bundle(bundle),
        "report.html": report_html(groups, verdicts=_in_order(bundle.verdicts), **said).encode(),
        "report.md": text.encode(),
    }


def draw(group: Group) -> list[Picture]:
    """Every figure of an architecture that its records allow."""
    right = any(row.median is not None for row in group.rows)
    found = answers(group)
    allowed = {
        "answers": (any(answer.best for answer in found) and any(compared(found)), draw_answers),
        "pstar": (any(row.robustness for row in group.rows), draw_boxes),
        "ecdf": (right, draw_ecdf),
        "tradeoff": (right and len(models_of(group.rows)) > 1, draw_tradeoff),
        "seconds": (any(row.seconds for row in group.rows), draw_seconds),
        "brackets": (any(row.bounds and row.bounds.right for row in group.rows), draw_brackets),
        "ablation": (any(effect.median for effect in effects(group)), draw_ablation),
    }
    of = group.suite, group.architecture
    return [Picture(kind, file_name(*of, kind), make(group)) for kind, (there, make) in allowed.items() if there]


def draw_study(groups: Sequence[Group]) -> list[Picture]:
    """The figures that hold all architectures of a study; none where there is only one."""
    if len(groups) < 2:
        return []
    rows = [row for group in groups for row in group.rows]
    allowed = {
        "study-tradeoff": (any(row.median is not None for row in rows if row.line), draw_study_tradeoff),
        "study-seconds": (any(row.seconds for row in rows), draw_study_seconds),
    }
    suite = groups[0].suite
    return [Picture(kind, file_name(suite, kind), make(groups)) for kind, (there, make) in allowed.items() if there]


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    return sorted(verdicts, key=lambda verdict: (verdict.suite, verdict.case, verdict.stage, verdict.figure))


def encode_bundle(bundle: Bundle) -> bytes:
    """A bundle as JSON for people and diffs: one verdict and one record a line, in order of their names."""

    def lines(values: Sequence[object]) -> bytes:
        encoded = [msgspec.json.encode(value, order="sorted") for value in values]
        return b"[\n" + b",\n".join(encoded) + b"\n]" if encoded else b"[]"

    records = sorted(bundle.records, key=lambda record: (record.suite, record.name))
    fields = {name: msgspec.json.encode(getattr(bundle, name)) for name in ("schema", "title", "command")}
    fields |= {"notes": lines(bundle.notes), "verdicts": lines(_in_order(bundle.verdicts)), "records": lines(records)}
    fields |= {"missing": lines(bundle.missing)} if bundle.missing else {}
    for name in ("tolerances", "accuracy_floors"):
        if declared := getattr(bundle, name):
            fields[name] = msgspec.json.encode(declared, order="sorted")
    return b"{\n" + b",\n".join(f'"{name}": '.encode() + data for name, data in fields.items()) + b"\n}\n"


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder, or in its ``records.json``.

    Raises:
        RobbenchError: there is none, or it is damaged or of another schema.
    """
    path = Path(path)
    file = path / "records.json" if path.is_dir() else path
    expected = "expected a bundle's folder or its records.json, of schema 'robbench.bundle/1'"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Bundle)
    except (OSError, *UNREADABLE) as error:
        raise RobbenchError(f"{str(file)!r} cannot be read; {expected}: {error}") from error


def merge(bundles: Sequence[Bundle]) -> Bundle:
    """Several bundles as one: studies side by side, the parts of one study joined.

    Of a case that several bundles have, the one with its newest record counts; stages that it lacks come from the next.

    Raises:
        RobbenchError: there is nothing to merge.
    """
    if not bundles:
        raise RobbenchError("merge: expected at least one bundle, got none")
    pairs = [(record, number) for number, bundle in enumerate(bundles) for record in bundle.records]
    newest: dict[tuple[str, str, int], str] = {}
    for record, number in pairs:
        key = record.suite, record.case, number
        newest[key] = max(newest.get(key, ""), record.created)
    chosen: dict[tuple[str, str], tuple[Record, int]] = {}
    replaced: dict[str, set[str]] = {}
    for record, number in sorted(pairs, key=lambda pair: newest[pair[0].suite, pair[0].case, pair[1]], reverse=True):
        first, _ = chosen.setdefault((record.suite, record.name), (record, number))
        if first != record:
            replaced.setdefault(record.suite, set()).add(record.case)
    verdicts = {
        (verdict.suite, verdict.case, verdict.stage, verdict.figure): verdict
        for number, bundle in enumerate(bundles)
        for verdict in bundle.verdicts
        if chosen.get((verdict.suite, f"{verdict.case}.{verdict.stage}"), (None, number))[1] == number
    }
    notes = [
        f"{suite}: {many(len(cases), 'model')} recorded more than once; the newest record counts"
        for suite, cases in sorted(replaced.items())
    ]
    missing = dict.fromkeys(name for bundle in bundles for name in bundle.missing)
    return Bundle(
        title=", ".join(dict.fromkeys(bundle.title for bundle in bundles)),
        command="\n".join(dict.fromkeys(bundle.command for bundle in bundles if bundle.command)),
        notes=list(dict.fromkeys([*(note for bundle in bundles for note in bundle.notes), *notes])),
        verdicts=[*verdicts.values()],
        records=[record for record, _ in chosen.values()],
        missing=[name for name in missing if tuple(name.split("/", 1)) not in chosen],
        tolerances={stage: declared for bundle in bundles for stage, declared in bundle.tolerances.items()},
        accuracy_floors={suite: floor for bundle in bundles for suite, floor in bundle.accuracy_floors.items()},
    )
