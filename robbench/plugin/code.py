"""Which code a run consists of: runs of other code take nothing from each other."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import robbench


def code_of_run(folders: Sequence[Path], tests: Iterable[str]) -> str:
    """First half of the SHA-256, in hexadecimal, over robbench's own files and the modules that are loaded from below some folders now.

    What is installed is left out, since records hold versions; and so are test files: what they declare is in the digests
    of its stages.

    Args:
        folders: absolute.
        tests: patterns of the names of test files, as in pytest's ``python_files``.
    """
    own = Path(robbench.__file__).parent
    found = {path.relative_to(own.parent): path for path in own.rglob("*.py")}
    for module in [*sys.modules.values()]:
        path = Path(getattr(module, "__file__", None) or "")
        above = [folder for folder in folders if path.is_relative_to(folder)]
        installed = {"site-packages", "dist-packages"} & {*path.parts}
        if above and path.suffix == ".py" and not installed and not any(path.match(pattern) for pattern in tests):
            found[path.relative_to(above[0])] = path
    digest = hashlib.sha256()
    for name, path in sorted(found.items()):
        if path.is_file():
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:32]
