"""The bundle: a folder with ``report.md``, figures, tables, every p* and the records all of it can be made from again."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from robbench.errors import RobbenchError
from robbench.gate.verdicts import Verdict
from robbench.record import UNREADABLE, Record, Struct, sha256_of
from robbench.report.drawing import Picture
from robbench.report.figures import draw, draw_study
from robbench.report.files import pstar_csv_gz, results_csv
from robbench.report.markdown import model_ranges
from robbench.report.overview import studies
from robbench.report.prose import report_text
from robbench.report.rows import group_records
from robbench.store.files import TEMPORARY_FOLDER, only_writer, write_atomically
from robbench.store.interruption import postponed

SCHEMA = "robbench.bundle/1"


class Bundle(Struct, frozen=True, kw_only=True):
    """Everything a report says, as data."""

    schema: str = SCHEMA
    title: str
    command: str
    """The command that made the records."""
    notes: list[str] = msgspec.field(default_factory=list)
    verdicts: list[Verdict] = msgspec.field(default_factory=list)
    records: list[Record] = msgspec.field(default_factory=list)
    missing: list[str] = msgspec.field(default_factory=list)
    """Stages that the studies ask for and no record has: ``suite/case.stage``."""
    plan: dict[str, str] = msgspec.field(default_factory=dict)
    """Digest of every stage that the studies ask for, as the run knew them, by ``suite/case.stage``; none of a study
    whose run was of an older version."""
    pictures: dict[str, str] = msgspec.field(default_factory=dict)
    """SHA-256 of every picture by its path in the folder, as the bundle was written; :func:`render` puts them in."""

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, got {self.schema!r}")
        counts = Counter(f"{record.suite}/{record.name}" for record in self.records)
        if twice := [name for name, count in counts.items() if count > 1]:
            raise ValueError(f"expected one record of each stage, got several of {', '.join(sorted(twice)[:3])}")


def write_bundle(folder: Path, bundle: Bundle) -> Path:
    """Write or renew a bundle; returns the path of its ``report.md``.

    Everything is rendered and laid down beside the old files first, and what lies in the place of a file is looked at, so
    an error leaves an old bundle whole. The same bundle always gives the same bytes. Files that are not a bundle's own
    stay. One process at a time lays its files down, and no SIGINT or SIGTERM stops it half way.

    Raises:
        RobbenchError: the folder cannot be written, or has a folder in the place of a file.
    """
    files = render(bundle)
    folder = Path(folder)
    try:
        with only_writer(folder), postponed():
            stale = _pictures(folder) - files.keys()
            with tempfile.TemporaryDirectory(prefix=TEMPORARY_FOLDER, dir=folder) as name:
                for path, data in files.items():
                    write_atomically(Path(name) / path, data)
                (folder / "figures").mkdir(exist_ok=True)
                if in_the_way := [path for path in files if _is_folder(folder / path)]:
                    raise RobbenchError(
                        f"bundle {str(folder)!r} cannot be written: expected a file or nothing in the place of "
                        f"{', '.join(in_the_way)}, got a folder"
                    )
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
    pictures: dict[tuple[str, ...], list[Picture]] = {
        **{(suite,): draw_study(found) for suite, found in studies(groups)},
        **{(group.suite, group.architecture): draw(group) for group in groups},
    }
    text = report_text(
        groups,
        pictures,
        title=bundle.title,
        command=bundle.command,
        notes=bundle.notes,
        verdicts=_in_order(bundle.verdicts),
        missing=bundle.missing,
        plan=bundle.plan,
    )
    drawn = {f"figures/{picture.name}": picture.png for images in pictures.values() for picture in images}
    checksums = {path: hashlib.sha256(data).hexdigest() for path, data in drawn.items()}
    return {
        **drawn,
        "results.csv": results_csv(groups),
        "pstar.csv.gz": pstar_csv_gz(groups),
        "records.json": encode_bundle(msgspec.structs.replace(bundle, pictures=checksums)),
        "report.md": text.encode(),
    }


def _in_order(verdicts: Sequence[Verdict]) -> list[Verdict]:
    """Verdicts as a bundle holds them, in whatever order its run came to them."""
    return sorted(verdicts, key=lambda verdict: (verdict.suite, verdict.case, verdict.stage, verdict.figure))


def _pictures(folder: Path) -> set[str]:
    """The figures of the bundle that lies in a folder; none where its report cannot be read."""
    try:
        text = (folder / "report.md").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return set()
    return {
        f"figures/{path.name}"
        for path in (folder / "figures").glob("*.png")
        if f"](figures/{path.name})" in text and not _is_folder(path)
    }


def _is_folder(path: Path) -> bool:
    """Whether no file can be put there; a link can be replaced, wherever it leads."""
    return path.is_dir() and not path.is_symlink()


def encode_bundle(bundle: Bundle) -> bytes:
    """A bundle as JSON for people and diffs: sorted keys, one verdict and one record a line, sorted by name.

    The last line is a SHA-256 over all others, by which :func:`read_bundle` knows that no figure was changed since.
    """
    records = sorted(bundle.records, key=lambda record: (record.suite, record.name))

    def one_line(value: object) -> bytes:
        return msgspec.json.encode(value, order="sorted")

    def lines(values: Sequence[object]) -> bytes:
        return b"[\n" + b",\n".join(map(one_line, values)) + b"\n]" if values else b"[]"

    def entries(values: Mapping[str, str]) -> bytes:
        return b"{\n" + b",\n".join(one_line(name) + b": " + one_line(values[name]) for name in sorted(values)) + b"\n}"

    fields = {
        "schema": one_line(bundle.schema),
        "title": one_line(bundle.title),
        "command": one_line(bundle.command),
        "notes": lines(bundle.notes),
        "verdicts": lines(_in_order(bundle.verdicts)),
        "records": lines(records),
        **({"missing": lines(bundle.missing)} if bundle.missing else {}),
        **{name: entries(found) for name, found in (("plan", bundle.plan), ("pictures", bundle.pictures)) if found},
    }
    fields["sha256"] = one_line(sha256_of({name: msgspec.json.decode(data) for name, data in fields.items()}))
    return b"{\n" + b",\n".join(f'"{name}": '.encode() + data for name, data in fields.items()) + b"\n}\n"


def read_bundle(path: Path) -> Bundle:
    """The bundle in a folder, or in its ``records.json``.

    Raises:
        RobbenchError: there is none, it was altered or damaged since it was written, is of another schema, or has two
            records of one stage.
    """
    path = Path(path)
    file = path / "records.json" if path.is_dir() else path
    expected = f"expected a bundle's folder or its records.json, of schema {SCHEMA!r}"
    try:
        data = file.read_bytes()
    except OSError as error:
        raise RobbenchError(f"{str(file)!r} cannot be read ({error.strerror or error}); {expected}") from error
    try:
        values = msgspec.json.decode(data, type=dict[str, Any])
        written = values.pop("sha256", None)  # none in a file from before there were checksums
        bundle = msgspec.convert(values, Bundle)
    except UNREADABLE as error:
        raise RobbenchError(f"{str(file)!r}: {expected}, as `robbench report` writes it: {error}") from error
    if written is not None and written != sha256_of(values):
        raise RobbenchError(
            f"{str(file)!r} was altered after it was written: its SHA-256 is another one; restore the file, or remove "
            'its line "sha256" if the change is meant'
        )
    return bundle


def merge(bundles: Sequence[Bundle]) -> Bundle:
    """Several bundles as one: studies side by side, the parts of one study joined.

    Of a case that several bundles have, the one with the newest record counts, with all its stages and verdicts; a
    stage that it lacks comes from the next newest. A note says of how many cases. What no bundle has stays missing, and
    what one of the plans asks for is in the plan: with the digest by which the chosen record was made.

    Raises:
        RobbenchError: there is nothing to merge.
    """
    if not bundles:
        raise RobbenchError("merge: expected at least one bundle, got none")
    cases: dict[tuple[str, str], list[tuple[str, int]]] = {}
    stages: dict[tuple[str, str], dict[int, list[Record]]] = {}
    for number, bundle in enumerate(bundles):
        for record in bundle.records:
            stages.setdefault((record.suite, record.case), {}).setdefault(number, []).append(record)
    for key, found in stages.items():
        cases[key] = sorted(((max(r.created for r in own), number) for number, own in found.items()), reverse=True)
    chosen: dict[tuple[str, str], tuple[Record, int]] = {}
    replaced: dict[str, set[str]] = {}
    for key, order in cases.items():
        for _, number in order:
            for record in stages[key][number]:
                first = chosen.setdefault((record.suite, record.name), (record, number))
                if first[0] != record:
                    replaced.setdefault(record.suite, set()).add(record.case)
    verdicts = {
        (verdict.suite, verdict.case, verdict.stage, verdict.figure): verdict
        for number, bundle in enumerate(bundles)
        for verdict in bundle.verdicts
        if chosen.get((verdict.suite, f"{verdict.case}.{verdict.stage}"), (None, number))[1] == number
    }
    notes = [
        f"{suite}: {len(found)} model{'s' * (len(found) != 1)} recorded more than once ({model_ranges(sorted(found))}); "
        "the run with the newest record counts"
        for suite, found in sorted(replaced.items())
    ]
    missing = dict.fromkeys(name for bundle in bundles for name in bundle.missing)
    return Bundle(
        title=", ".join(dict.fromkeys(bundle.title for bundle in bundles)),
        command="\n".join(dict.fromkeys(bundle.command for bundle in bundles if bundle.command)),
        notes=list(dict.fromkeys([*_notes(bundles), *notes])),
        verdicts=[*verdicts.values()],
        records=[record for record, _ in chosen.values()],
        missing=[name for name in missing if tuple(name.split("/", 1)) not in chosen],
        plan=_plan(bundles, chosen.values()),
    )


def _plan(bundles: Sequence[Bundle], chosen: Iterable[tuple[Record, int]]) -> dict[str, str]:
    """The plans of all bundles as one; ``chosen`` are the records that count, with the number of their bundle."""
    plan = {name: digest for bundle in bundles for name, digest in bundle.plan.items()}
    planned = {name.partition("/")[0] for name in plan}
    for record, number in chosen:
        name = f"{record.suite}/{record.name}"
        if record.suite in planned:  # a bundle without a plan may have more records than the others' plans
            plan[name] = bundles[number].plan.get(name, record.digest)
    return plan


def _notes(bundles: Sequence[Bundle]) -> list[str]:
    """Every bundle's notes; where the bundles are of several studies, each with the title of its own."""
    several = len({frozenset(record.suite for record in bundle.records) for bundle in bundles}) > 1
    return [f"{bundle.title}: {note}" if several else note for bundle in bundles for note in bundle.notes]
