"""Files that are written whole or not at all, and what killed processes leave of them. No torch."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

from robbench.errors import RobbenchError
from robbench.interruption import postponed

_TEMPORARY = ".writing-"
"""How names of files begin that are being written."""


def check_writable(folder: Path) -> None:
    """Raise a RobbenchError unless a file can be written in the folder, which is made where it is missing."""
    probe = folder / f".writable-{uuid.uuid4().hex}"
    write_atomically(probe, b"")
    probe.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name beside it, flush to disk, rename, flush; SIGINT and SIGTERM wait.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    try:
        with postponed():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f"{_TEMPORARY}{path.name}.", dir=path.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                os.chmod(temporary, 0o644)
                os.replace(temporary, path)
                _flush_folder(path.parent)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of files that they wrote to a folder; for whoever alone may write there."""
    for path in folder.glob(f"{_TEMPORARY}*"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """The names in a folder to disk, where the system can: a power cut must not undo a rename."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
