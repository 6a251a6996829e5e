"""Locks between processes: files that the system unlocks when their holder dies. No torch."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from robbench.errors import RobbenchError

PATIENCE = 3.0
"""Seconds to wait for another process before saying so."""


def to_stderr(text: str) -> None:
    """Say something to whoever watches, at once."""
    print(f"robbench: {text}", file=sys.stderr, flush=True)


@contextmanager
def locked(path: Path, what: str, say: Callable[[str], None] = to_stderr) -> Iterator[None]:
    """Hold a lock, and wait for it as long as another process holds it.

    Args:
        path: of the lock's file; its folder is made where it is missing.
        what: the lock protects, for messages.
        say: gets one sentence after ``PATIENCE`` seconds of waiting. It names the process that holds the lock.

    Raises:
        RobbenchError: the file cannot be made, or the file system has no locks.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=PATIENCE)
        except Timeout:
            say(f"waiting for {_holder(path)}, which is making {what}")
            lock.acquire(timeout=-1)
        with suppress(OSError):  # the name of the holder is a courtesy
            path.write_text(f"process {os.getpid()} on {platform.node()}", encoding="utf-8")
    except (OSError, NotImplementedError) as error:
        raise RobbenchError(f"{str(path)!r} cannot be locked: {getattr(error, 'strerror', None) or error}") from error
    try:
        yield
    finally:
        lock.release()


def _holder(path: Path) -> str:
    with suppress(OSError, ValueError):
        return path.read_text(encoding="utf-8") or "another process"
    return "another process"
