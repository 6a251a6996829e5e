"""Files that are written whole or not at all, and what killed processes leave of them. No torch."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from robbench.errors import RobbenchError
from robbench.store.interruption import postponed
from robbench.store.locks import locked

TEMPORARY = ".writing-"
"""How names of files begin that are being written."""

TEMPORARY_FOLDER = f"{TEMPORARY}report-"
"""How names of folders of such files begin."""


def check_writable(folder: Path) -> None:
    """Raise a RobbenchError unless a file can be written in the folder, which is made where it is missing."""
    probe = folder / f"{TEMPORARY}probe"
    with only_writer(folder):
        write_atomically(probe, b"")
        probe.unlink(missing_ok=True)


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold a folder, made where it is missing, and rid it of what killed writers left.

    Whoever writes under a temporary name into a folder without a lock of its own holds it so: nobody's file is taken
    for a leftover while it is written.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    with locked(folder):
        remove_leftovers(folder)
        yield


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all: temporary name beside it, flush to disk, rename, flush; SIGINT and SIGTERM wait.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    try:
        with postponed():
            path.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}.", dir=path.parent)
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
    """Remove what killed processes left of files that they wrote to a folder; for whoever alone may write there.

    What cannot be removed, such as another user's, stays.
    """
    for path in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if path.name.startswith(TEMPORARY_FOLDER) and path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _flush_folder(folder: Path) -> None:
    """The names in a folder to disk, where the system can: a power cut must not undo a rename."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
