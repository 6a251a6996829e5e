"""Which code a run consists of: runs of other code take nothing from each other."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path

import robbench

_MOST_FILES = 10_000
"""Beyond them a folder is taken for no project."""

_INSTALLED = {"site-packages", "dist-packages"}


def code_of_run(folders: Sequence[Path]) -> str:
    """First half of a SHA-256, in hexadecimal: over robbench's own files, the Python files below some folders, and loaded ones.

    What is installed is left out, since records hold versions, and so are hidden folders and virtual environments. Where a
    file cannot be read, or there are very many, it is another value every time.

    Args:
        folders: absolute.
    """
    own = Path(robbench.__file__).parent
    found = {path: str(path.relative_to(own.parent)) for path in own.rglob("*.py")}
    for folder in folders:
        for path in _below(folder):
            found.setdefault(path, str(path.relative_to(folder)))
            if len(found) > _MOST_FILES:
                return uuid.uuid4().hex
    for path in _loaded_from_elsewhere(folders):
        found.setdefault(path, str(path))
    digest = hashlib.sha256()
    try:
        for path, name in sorted(found.items(), key=lambda item: item[1]):
            digest.update(f"{name}\0".encode(errors="surrogateescape") + hashlib.sha256(path.read_bytes()).digest())
    except OSError:
        return uuid.uuid4().hex
    return digest.hexdigest()[:32]


def _below(folder: Path) -> Iterator[Path]:
    """Python files, those in linked folders too."""
    seen = set()
    for place, inner, names in os.walk(folder, followlinks=True):
        if os.path.realpath(place) in seen or "pyvenv.cfg" in names:
            inner.clear()
            continue
        seen.add(os.path.realpath(place))
        inner[:] = [name for name in inner if not name.startswith(".") and name not in {"__pycache__", *_INSTALLED}]
        yield from (Path(place, name) for name in names if name.endswith(".py"))


def _loaded_from_elsewhere(folders: Sequence[Path]) -> Iterator[Path]:
    """Files of modules that are loaded and neither installed nor Python's own: such as of packages in editable mode."""
    python = Path(sysconfig.get_path("stdlib"))
    for module in [*sys.modules.values()]:
        path = Path(
            getattr(module, "__dict__", {}).get("__file__") or ""
        )  # of PyTorch's one is "_ops.py", which is no file
        known = any(path.is_relative_to(folder) for folder in (python, *folders))
        if path.is_absolute() and path.suffix == ".py" and not known and not _INSTALLED & {*path.parts}:
            yield path
