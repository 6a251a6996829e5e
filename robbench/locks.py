"""One process at a time in a folder whose files belong together. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from robbench.errors import RobbenchError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder, which is made where it is missing; the thread that holds it may hold it again.

    The lock's file is gone afterwards: whoever waits for it sees that, and makes another.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    path = folder / ".robbench.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, is_singleton=True)
        lock.acquire()
    except OSError as error:
        raise RobbenchError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)
        lock.release()
