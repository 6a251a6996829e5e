"""Files that are written whole or not at all. No torch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from robbench.errors import RobbenchError

TEMPORARY = ".writing-"
"""How the names of files begin while they are written."""


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file under a temporary name beside ``path``, which is flushed to disk and gets that name where all goes well.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)  # mkstemp's files are readable by their owner only
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise RobbenchError(f"{str(path)!r} cannot be written: {error.strerror or error}") from error


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; errors as of :func:`writing`."""
    with writing(path) as file:
        file.write(data)


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
