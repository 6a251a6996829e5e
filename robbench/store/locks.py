"""One process at a time in a folder whose files belong together, a word to who waits for it, and who else lives. No torch."""

from __future__ import annotations

import os
import platform
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from robbench.errors import RobbenchError

PATIENCE = 3.0
"""Seconds of waiting for another process after which it is said."""

_LIVING = ".living"
"""How the names of files end that living processes hold."""


def to_stderr(text: str) -> None:
    """Say something to whoever watches, at once."""
    print(f"robbench: {text}", file=sys.stderr, flush=True)


@contextmanager
def locked(folder: Path, say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Hold a folder, which is made where it is missing; the thread that holds it may hold it again.

    The lock's file is gone afterwards: whoever waits for it sees that, and makes another.

    Args:
        folder: whose files belong together.
        say: as of :func:`acquire`.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    path = folder / ".robbench.lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(path, shared=True)
        acquire(lock, str(folder), say)
    except OSError as error:
        raise RobbenchError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    try:
        yield
    finally:
        if lock.lock_counter == 1:
            path.unlink(missing_ok=True)
        lock.release()


@contextmanager
def among_the_living(folder: Path, began: float, code: str) -> Iterator[float]:
    """Be one of the processes that live on a folder at once with the same code, and learn when the first of them began.

    Who comes while another lives belongs to it, and so does who comes while that one lives, even after the first has ended:
    what one of them makes has been made for all. Each holds a file named after that time, which the system lets go of when
    its process dies.

    Args:
        folder: of those files, and of nothing else; made where it is missing.
        began: when this process did, in seconds since 1970.
        code: what two processes must share to belong to each other; letters and digits.

    Yields:
        ``began``, or the time when the first of those began to whom this process belongs, whichever is earlier.

    Raises:
        RobbenchError: the folder cannot be written.
    """
    with locked(folder):
        try:
            first = min([began, *_living(folder, code)])
            own = file_lock(folder / f"{first!r}-{code}-{uuid.uuid4().hex}{_LIVING}")
            own.acquire()
        except OSError as error:
            raise RobbenchError(f"{str(folder)!r} cannot be written: {error.strerror or error}") from error
    try:
        yield first
    finally:
        with suppress(OSError):  # what stays is removed by the next to come
            Path(own.lock_file).unlink(missing_ok=True)
        own.release()


def _living(folder: Path, code: str) -> Iterator[float]:
    """The times that living processes hold; files of dead ones are removed. Those of other users tell nothing."""
    for path in folder.glob(f"*{_LIVING}"):
        lock = file_lock(path)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            first, its_code = (*path.name.split("-"), "")[:2]
            if its_code == code:
                yield float(first)
        except PermissionError:
            continue
        else:
            path.unlink(missing_ok=True)
            lock.release()


def file_lock(path: Path, *, shared: bool = False) -> FileLock:
    """A lock that the system frees when its holder dies; where it has none of that kind, taking it is an OSError.

    Args:
        path: of its file.
        shared: whether whoever asks for this file in this thread gets the same lock, and may take it again.
    """
    return FileLock(path, is_singleton=shared, fallback_to_soft=False)


def acquire(lock: FileLock, what: str, say: Callable[[str], None], run: str = "") -> None:
    """Wait until a lock is free, and take it; its file names the holder from then on.

    Args:
        lock: of this process.
        what: is held by it.
        say: gets one sentence where PATIENCE seconds were not enough, with process and machine of the holder.
        run: of which this process is a part; processes of one run wait for each other without a word.

    Raises:
        OSError: its file cannot be made.
    """
    path = Path(lock.lock_file)
    try:
        lock.acquire(timeout=PATIENCE)
    except Timeout:
        holder, its_run = _holder(path)
        if not run or its_run != run:
            say(f"waiting for {holder}, which holds {what}")
        lock.acquire(timeout=-1)
    with suppress(OSError):  # a courtesy: a full disk is no reason not to go on
        path.write_text(f"process {os.getpid()} on {platform.node()}\n{run}\n", encoding="utf-8")


def _holder(path: Path) -> tuple[str, str]:
    """Who holds a lock, in words, and the run that it is a part of, as its file says."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        lines = []
    holder, run = (*lines, "", "")[:2]
    return holder or "another process", run
