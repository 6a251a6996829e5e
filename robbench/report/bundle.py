"""The bundle: a folder with ``report.md``, figures, tables, every p* and the records all of it can be made from again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from robbench.compare import Verdict
from robbench.errors import RobbenchError
from robbench.record import Record, _Struct, write_atomically
from robbench.report.figures import draw
from robbench.report.prose import report_text
from robbench.report.rows import group_records
from robbench.report.tables import pstar_csv_gz, results_csv

SCHEMA = "robbench.bundle/1"


class Bundle(_Struct, frozen=True, kw_only=True):
    """Everything a report says, as data."""

    schema: str = SCHEMA
    title: str
    command: str
    """The command that made the records."""
    notes: list[str] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    records: list[Record] = msgspec.field(default_factory=list)

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write or renew a bundle; returns the path of its ``report.md``.

    Everything is rendered and laid down beside the old files first, so an error leaves an old bundle whole. The same
    bundle always gives the same bytes. Files that are not a bundle's own stay.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    files = render(bundle)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        stale = _pictures(folder) - files.keys()
        with tempfile.TemporaryDirectory(prefix=".robbench-", dir=folder) as name:
            for path, data in files.items():
                write_atomically(Path(name) / path, data)
            (folder / "figures").mkdir(exist_ok=True)
            for path in files:
                os.replace(Path(name) / path, folder / path)
        for path in stale:
            (folder / path).unlink(missing_ok=True)
    except OSError as error:
        raise RobbenchError(f"bundle {str(folder)!r} cannot be written: {error.strerror or error}") from error
    return folder / "report.md"


def render(bundle: Bundle) -> dict[str, bytes]:
    """The files of a bundle by their path within it."""
    groups = group_records(bundle.records)
    pictures = [draw(group) for group in groups]
    text = report_text(bundle.title, bundle.command, bundle.notes, bundle.verdicts, groups, pictures)
    return {
        **{f"figures/{picture.name}": picture.png for images in pictures for picture in images},
        "results.csv": results_csv(groups),
        "pstar.csv.gz": pstar_csv_gz(groups),
        "records.json": encode_bundle(bundle),
        "report.md": text.encode(),
    }


def _pictures(folder: Path) -> set[str]:
    """The figures of the bundle that lies in a folder; none where its report cannot be read."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return {f"figures/{path.name}" for path in (folder / "figures").glob("*.png") if f"](figures/{path.name})" in text}


def encode_bundle(bundle: Bundle) -> bytes:
    """A bundle as JSON for people and diffs: sorted keys, one verdict and one record a line, sorted by name."""
    verdicts = sorted(bundle.verdicts, key=lambda verdict: (verdict.suite, verdict.case, verdict.stage, verdict.figure))
    records = sorted(bundle.records, key=lambda record: (record.suite, record.name))

    def one_line(value: object) -> bytes:
        return msgspec.json.encode(value, order="sorted")

    def lines(values: Sequence[object]) -> bytes:
        return b"[\n" + b",\n".join(map(one_line, values)) + b"\n]" if values else b"[]"

    fields = {
        "schema": one_line(bundle.schema),
        "title": one_line(bundle.title),
        "command": one_line(bundle.command),
        "notes": lines(bundle.notes),
        "verdicts": lines(verdicts),
        "records": lines(records),
    }
    return b"{\n" + b",\n".join(f'"{name}": '.encode() + data for name, data in fields.items()) + b"\n}\n"


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder, or in its ``records.json``.

    Raises:
        RobbenchError: there is none, it is damaged, or of another schema.
    """
    path = Path(path)
    file = path / "records.json" if path.is_dir() else path
    expected = f"expected a bundle's folder or its records.json, of schema {SCHEMA!r}"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RobbenchError(f"{str(file)!r} cannot be read ({error.strerror or error}); {expected}") from error
    try:
        return msgspec.json.decode(data, type=Bundle)
    except (msgspec.MsgspecError, ValueError) as error:
        raise RobbenchError(f"{str(file)!r}: {expected}, as `robbench report` writes it: {error}") from error


def merge(bundles: Sequence[Bundle]) -> Bundle:
    """Several bundles as one; of two records of a stage the newer stays, with its verdicts, and a note says so.

    Raises:
        RobbenchError: there is nothing to merge.
    """
    if not bundles:
        raise RobbenchError("merge: expected at least one bundle, got none")
    newest: dict[tuple[str, str], tuple[Record, int]] = {}
    replaced = set()
    for number, bundle in enumerate(bundles):
        for record in bundle.records:
            key = record.suite, record.name
            if key in newest and newest[key][0] != record:
                replaced.add(key)
            if key not in newest or record.created >= newest[key][0].created:
                newest[key] = record, number
    verdicts = {
        (verdict.suite, verdict.case, verdict.stage, verdict.figure): verdict
        for number, bundle in enumerate(bundles)
        for verdict in bundle.verdicts
        if newest.get((verdict.suite, f"{verdict.case}.{verdict.stage}"), (None, number))[1] == number
    }
    notes = [f"{suite}/{name}: several records were merged, the newest is shown" for suite, name in sorted(replaced)]
    return Bundle(
        title=", ".join(dict.fromkeys(bundle.title for bundle in bundles)),
        command="\n".join(dict.fromkeys(bundle.command for bundle in bundles if bundle.command)),
        notes=list(dict.fromkeys([*(note for bundle in bundles for note in bundle.notes), *notes])),
        verdicts=[*verdicts.values()],
        records=[record for record, _ in newest.values()],
    )
