"""Files that are written whole or not at all. No torch."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from robbench.errors import RobbenchError

TEMPORARY = ".writing-"
"""How the names of files begin while they are written."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file under a temporary name beside it, flush it to disk, and rename it.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's files are readable by their owner only
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def check_writable(folder: Path) -> None:
    """Raise a RobbenchError unless a file can be written in the folder, which is made where it is missing."""
    probe = folder / f"{TEMPORARY}probe-{os.getpid()}"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder; call it where nobody else may write."""
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            path.unlink()
