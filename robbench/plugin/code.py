"""Which code a run consists of: runs of other code take nothing from each other."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import robbench

_MOST_FILES = 10_000
"""Beyond them a folder is taken for no project."""


def code_of_run(folders: Sequence[Path], tests: Iterable[str]) -> str:
    """First half of the SHA-256, in hexadecimal, over robbench's own files and the Python files below some folders.

    What is installed there is left out, since records hold versions, and so are hidden folders and test files: what those
    declare is in the digests of its stages. A folder of very many files gives another value every time.

    Args:
        folders: absolute.
        tests: patterns of the names of test files, as in pytest's ``python_files``.
    """
    own, patterns = Path(robbench.__file__).parent, [*tests]
    found = {path: str(path.relative_to(own.parent)) for path in own.rglob("*.py")}
    for folder in folders:
        for path in _python_files(folder):
            if not any(path.match(pattern) for pattern in patterns):
                found.setdefault(path, str(path.relative_to(folder)))
            if len(found) > _MOST_FILES:
                return uuid.uuid4().hex
    digest = hashlib.sha256()
    for path, name in sorted(found.items(), key=lambda item: item[1]):
        if path.is_file():
            digest.update(f"{name}\0".encode(errors="surrogateescape") + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]


def _python_files(folder: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(folder):
        if "pyvenv.cfg" in names:
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".") and name not in ("site-packages", "__pycache__")]
        yield from (Path(place, name) for name in names if name.endswith(".py"))
