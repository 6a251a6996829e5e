"""Which code a run consists of: runs of other code take nothing from each other."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
import uuid
from collections.abc import Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import robbench
from robbench.spec.catalogue import own_module

_MOST_FILES = 10_000
"""Beyond them a folder is taken for no project."""

_INSTALLED = {"site-packages", "dist-packages"}


def code_of_run(root: Path, architectures: Iterable[str]) -> str:
    """First half of a SHA-256, in hexadecimal: over robbench's files, all Python files below the root, and what is loaded.

    What is installed is left out, since records hold versions; so are hidden files and virtual environments below the
    root, unless they are loaded. Where a file below the root cannot be read, or there are very many, it is another value
    every time.

    Args:
        root: of the project.
        architectures: names of networks; the modules of the user's own are loaded.
    """
    for architecture in architectures:
        if module := own_module(architecture):
            try:
                import_module(module)
            except KeyboardInterrupt:
                raise
            except BaseException:  # building the network says what is wrong
                continue
    own, root = Path(robbench.__file__).resolve().parent, root.resolve()
    found = {path: str(path.relative_to(own.parent)) for path in own.rglob("*.py")}
    try:
        for path in _below(root):
            found.setdefault(path, str(path.relative_to(root)))
            if len(found) > _MOST_FILES:
                return uuid.uuid4().hex
        parts = [f"{name}\0{_sha256(path)}" for path, name in found.items()]
    except OSError:
        return uuid.uuid4().hex
    parts += {_loaded_part(name, path) for name, path in _loaded().items() if path not in found}
    return hashlib.sha256("\n".join(sorted(parts)).encode(errors="surrogateescape")).hexdigest()[:32]


def _below(root: Path) -> Iterator[Path]:
    for place, inner, names in os.walk(root):
        if "pyvenv.cfg" in names:
            inner.clear()
            continue
        inner[:] = [name for name in inner if not name.startswith(".") and name not in _INSTALLED]
        named = (Path(place, name) for name in names if name.endswith(".py") and not name.startswith("."))
        yield from filter(Path.is_file, named)


def _loaded() -> dict[str, Path]:
    """Files of modules that are loaded and neither installed nor Python's own, as of packages in editable mode; by name."""
    python = Path(sysconfig.get_path("stdlib")).resolve()
    files: dict[str, Path] = {}
    for name, module in [*sys.modules.items()]:
        with suppress(Exception):  # anything may pass for a module
            path = Path(vars(module)["__file__"])
            if path.is_absolute() and name != "__main__" and not _INSTALLED & {*path.parts}:
                files[name] = path.resolve()
    return {name: path for name, path in files.items() if not path.is_relative_to(python)}


def _loaded_part(name: str, path: Path) -> str:
    """A loaded file's content, wherever it lies, or where there is none, as in an archive, the module's name."""
    try:
        return f"\0{_sha256(path)}"
    except OSError:
        return f"\0{name}"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
