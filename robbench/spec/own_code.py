"""The files of a user's own networks, losses, searches and kinds of stages, as they were when they were imported. No torch."""

from __future__ import annotations

import hashlib
import sys
from importlib.util import find_spec
from pathlib import Path

_IMPORTED: dict[str, tuple[object, str]] = {}
"""By module: what tells one import of it from the next, and the SHA-256 of its file then."""


def remember(module: str) -> str | None:
    """SHA-256 of the file of a module that is imported, taken at the first call after its import; None without a file.

    So it is called where specs, models and networks of the module are made: their code is what was imported, whatever is
    in the file later.
    """
    loaded = sys.modules.get(module)
    this_import = getattr(loaded, "__spec__", None) or loaded  # importlib.reload makes a new one
    before, digest = _IMPORTED.get(module, (None, None))
    if before is not this_import or digest is None:
        path = getattr(loaded, "__file__", None)
        digest = _sha256(Path(path)) if path else None
        if digest is not None:
            _IMPORTED[module] = this_import, digest
    return digest


def sha256_of(module: str) -> str | None:
    """SHA-256 of a module's file as it was imported, or as it is now; None for what cannot be found."""
    if module in sys.modules:
        return remember(module)
    try:
        found = find_spec(module)
    except Exception:  # it imports the module's package
        return None
    return _sha256(Path(found.origin)) if found and found.origin else None


def edited(module: str) -> Path | None:
    """The file of an imported module, if it is no longer what was imported."""
    path = getattr(sys.modules.get(module), "__file__", None)
    imported = remember(module)
    return Path(path) if path and imported and _sha256(Path(path)) != imported else None


def _sha256(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
