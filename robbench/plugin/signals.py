"""SIGTERM, which schedulers send before they take a machine away, turned into the orderly end that SIGINT brings."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType

from robbench.plugin.session import Session

TERMINATED = 128 + signal.SIGTERM
"""Exit status of a run that SIGTERM ended: what a shell reports of a process that dies of it."""


class Terminated(KeyboardInterrupt):
    """SIGTERM arrived; pytest ends the run as after Ctrl-C."""


def end_orderly(session: Session) -> Callable[[], None]:
    """From the first stage of a suite on, let SIGTERM end the run in order; returns what undoes that.

    Before, and in runs without a suite, SIGTERM does what it always does; a handler of somebody else's stays. The second
    SIGTERM is ignored: the run is ending.
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None

    def terminate(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN if session.plans else signal.SIG_DFL)
        if session.plans:
            raise Terminated("SIGTERM")
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, terminate)
    return _restore


def _restore() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
