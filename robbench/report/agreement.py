"""Whether the files of a bundle say what its records say."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Iterator
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Literal

from robbench.errors import RobbenchError
from robbench.report.bundle import Bundle, render

_SHOWN = 60
"""Characters of a line that a message quotes, from shortly before the first difference on."""


def disagreements(folder: Path, bundle: Bundle) -> Iterator[tuple[Literal["problem", "unproven", "remark"], str, str]]:
    """Mark, path and message of every file of a bundle that is not what its records render to now.

    A picture's bytes depend on the versions of what draws it. One that is drawn otherwise here is a problem where it is
    not what the bundle was written with, by its SHA-256; the others are a remark, or unproven where there is none.

    Raises:
        RobbenchError: the records cannot be rendered.
    """
    try:
        files = render(bundle)
    except Exception as error:  # figures that no run would record can break a report anywhere
        raise RobbenchError(
            f"records.json: expected records that can be rendered, got {type(error).__name__}: {error}"
        ) from error
    versions = sorted({record.environment.robbench for record in bundle.records})
    other = "" if version("robbench") in versions else f" (recorded by robbench {', '.join(versions)}, "
    hint = other and f"{other}this is {version('robbench')}; `robbench report {folder}` renders it anew)"
    as_written = no_checksum = 0
    for path, expected in files.items():
        if path == "records.json":
            continue
        try:
            found = (folder / path).read_bytes()
            if path.endswith(".gz"):
                found, expected = gzip.decompress(found), gzip.decompress(expected)
        except FileNotFoundError:
            yield "problem", path, "is missing"
        except (OSError, EOFError, zlib.error) as error:
            yield "problem", path, f"cannot be read: {error}"
        else:
            if found == expected:
                continue
            if not path.endswith(".png"):
                yield "problem", path, f"{_first_difference(found, expected)}{hint}"
            elif path not in bundle.pictures:
                no_checksum += 1
            elif hashlib.sha256(found).hexdigest() != bundle.pictures[path]:
                yield "problem", path, "is not the picture that the bundle was written with: its SHA-256 is another one"
            else:
                as_written += 1
    drawn = "drawn otherwise here, so that they show the records was not checked"
    if as_written:
        yield "remark", "figures", f"{as_written} pictures are those that the bundle was written with, but {drawn}"
    if no_checksum:
        yield (
            "unproven",
            "figures",
            f"{no_checksum} pictures have no checksum and are {drawn}; `robbench report` draws them",
        )


def _first_difference(found: bytes, expected: bytes) -> str:
    lines = zip_longest(*(text.decode(errors="replace").splitlines() for text in (found, expected)))
    for number, (ours, theirs) in enumerate(lines, start=1):
        if ours != theirs:
            same = next(
                (at for at, pair in enumerate(zip(ours or "", theirs or "", strict=False)) if len(set(pair)) > 1), 0
            )
            start = max(0, same - _SHOWN // 3)
            said, asked = (
                "no such line" if text is None else repr(text[start : start + _SHOWN]) for text in (ours, theirs)
            )
            return f"line {number} is not what the records say: {said}, expected {asked}"
    return "differs from what the records say in line endings or in bytes that are no text"
