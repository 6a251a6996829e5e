"""Signals that ask a process to end, put off while something is written that must not be left half done. No torch."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def postponed(*, dropped: bool = False) -> Iterator[None]:
    """Let SIGINT and SIGTERM wait until the block is left; outside the main thread, where none arrives, do nothing.

    A signal that is ignored (``nohup``) stays ignored.

    Args:
        dropped: forget the signals that came instead of raising them then, for the last thing that a process does.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    put_off = {n: handler for n, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
    for number in put_off:
        signal.signal(number, lambda number, frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in put_off.items():
            signal.signal(number, handler)
        if not dropped:
            for arrived in dict.fromkeys(came):
                signal.raise_signal(arrived)
