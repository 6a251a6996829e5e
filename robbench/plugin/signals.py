"""SIGTERM, which schedulers send before they take a machine away, turned into the orderly end that one SIGINT brings."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

import pytest

from robbench.plugin.session import Session

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM ended: what a shell reports of a process that dies of it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; pytest ends the run as after Ctrl-C."""


def end_orderly(session: Session) -> Callable[[], None]:
    """From the first stage of a suite on, let SIGTERM end the run in order; returns what undoes that.

    Before, and in runs without a suite, SIGTERM does what it always does; a handler of somebody else's stays. The second
    SIGTERM is ignored, and so is one after the last test: the run is ending.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None

    def terminate(number: int, frame: FrameType | None) -> None:
        __tracebackhide__ = True
        signal.signal(number, signal.SIG_IGN if session.plans else signal.SIG_DFL)
        if session.plans and not session.ending:
            raise Terminated("SIGTERM")
        if not session.plans:
            signal.raise_signal(number)

    signal.signal(signal.SIGTERM, terminate)
    return _restore


def _restore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def one_at_a_time(config: pytest.Config) -> None:
    """Until the run ends, take SIGINTs that follow each other within a second for one: the second one would end pytest
    in the middle of handling the first. A handler of somebody else's stays.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    last = -math.inf

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal last
        __tracebackhide__ = True  # pytest says where the run was
        now = time.monotonic()
        if now - last >= 1:
            last = now
            signal.default_int_handler(number, frame)

    def restore() -> None:
        if signal.getsignal(signal.SIGINT) is interrupt:
            signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, interrupt)
    config.add_cleanup(restore)
