"""The progress line of a run, and what must be said before a stage ends."""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robbench.stages.graph import Graph

LIVE, LOGGED = 0.2, 60.0
"""Least seconds between two lines of progress: on a terminal, where the line is drawn anew, and off it."""


def progress_line(
    number: str, what: str, details: Sequence[str], share: str, left: str, width: int = sys.maxsize
) -> str:
    """``stage 4 of 26 · training of cnn7-mnist-pgd · epoch 3 of 9, loss 0.412 · 38 % · 1 min 20 s left``.

    Where that is longer than ``width``, what is least needed is left out: the number of the stage, the share, the words
    ``training of``, and then all but the shortest of the ``details``, of which the longest comes first.
    """
    full, name = details[0], what.removeprefix("training of ")
    forms = [(number, what, full, share), (what, full, share), (what, full), *((name, detail) for detail in details)]
    lines = [" · ".join(filter(None, (*form, left))) for form in forms]
    line = next((line for line in lines if len(line) <= width), lines[-1])
    return line if len(line) <= width else f"{line[: width - 1]}…"


def share_and_left(done: float, total: float, seconds: float, begun: float = 0.0) -> tuple[str, str]:
    """``38 %`` and ``1 min 20 s left``, at the pace since ``begun`` was done, ``seconds`` ago; no guess from one per cent."""
    share, before = (min(1.0, done / total), begun / total) if total else (1.0, 0.0)
    said = f"{100 * share:.0f} %"
    if share - before <= 0.01:
        return said, ""
    left = round(seconds * (1 - share) / (share - before))
    hours, minutes, rest = left // 3600, left // 60 % 60, left % 60
    if hours:
        return said, f"{hours} h {minutes} min left"
    return said, f"{minutes} min {rest} s left" if minutes else f"{rest} s left"


class Progress:
    """Writes to the terminal of a run, whatever pytest captures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._drawn = False
        """Whether there is a line on the terminal."""
        self._last = time.monotonic()
        self._about, self._since, self._from = "", 0.0, 0.0
        self._items = 0
        """How many of the suites' items this run has ended."""
        config.pluginmanager.register(self)

    def pytest_runtest_teardown(self, item: pytest.Item) -> None:
        """Count an item that is over."""
        self._items += "model" in getattr(getattr(item, "callspec", None), "params", {})

    def show(self, what: str, done: float, total: float, detail: str = "") -> None:
        """Say which of the stages runs, how much of it is done, what is said of it, and how long it will take.

        One line, five times a second at most, on a terminal; off it a line a minute.
        """
        facts = detail.split(", ")
        self._show(what, done, total, [", ".join(facts[:count]) for count in range(len(facts), 0, -1)])

    def _show(self, what: str, done: float, total: float, details: Sequence[str]) -> None:
        reporter, now = self._reporter(), time.monotonic()
        live = reporter is not None and reporter.isatty
        about = "stages" if what.startswith("stages") else what
        if self._about != about:
            self._about, self._since, self._from = about, now, done
        if now - self._last < (LIVE if live else LOGGED):
            return
        self._last = now
        number = "" if about == "stages" else self._number()
        with self._uncaptured():  # else there is no terminal whose width could be asked for
            width = reporter._tw.fullwidth - 1 if live else sys.maxsize
        line = progress_line(number, what, details, *share_and_left(done, total, now - self._since, self._from), width)
        if live:
            self._drawn = True
            self._draw(reporter, line)
        else:
            self.announce(line)

    def show_graph(self, graph: Graph, running: Sequence[tuple[str, str, float, str]]) -> None:
        """Say how many stages are done, of how many, and what runs: name, host, share done, and what is said of it."""
        done = sum(future.done() for future in graph.futures.values())
        where = [f"{name} {100 * share:.0f} % on {host}" for name, host, share, _ in running]
        said = [f"{at}, {detail}" if detail else at for at, (*_, detail) in zip(where, running, strict=True)]
        total, names = len(graph.futures), {task.name for task in graph.futures}
        shares = sum(share for name, _, share, _ in running if name in names)  # not of parts that workers share
        details = ["; ".join(said), "; ".join(where)]
        self._show(f"stages: {done} of {total} done", done + shares, total, details)

    def _number(self) -> str:
        """``stage 3 of 26``: the item of this run; nothing in a worker of pytest-xdist, which knows its own ones only."""
        from robbench.plugin.session import SESSION

        session = self._config.stash.get(SESSION, None)
        if session is None or hasattr(self._config, "workerinput"):
            return ""
        total = sum(map(len, session.selected.values()))
        return f"stage {min(self._items + 1, total)} of {total}" if total else ""

    def announce(self, text: str) -> None:
        """Write a line at once; a worker of pytest-xdist writes it to standard error."""
        from robbench.store.locks import to_stderr

        self.clear()
        reporter = self._reporter()
        with self._uncaptured():
            if reporter is None or hasattr(self._config, "workerinput"):
                to_stderr(text)
            else:
                reporter.write_line(text)
                reporter.flush()

    def clear(self) -> None:
        """Wipe the progress line, if one was drawn."""
        if self._drawn:
            self._drawn = False
            self._draw(self._reporter(), "")

    def _reporter(self) -> Any:
        return self._config.pluginmanager.get_plugin("terminalreporter")

    def _draw(self, reporter: Any, line: str) -> None:
        with self._uncaptured():
            reporter.rewrite(line, erase=True)
            reporter.write("\r", flush=True)

    def _uncaptured(self) -> AbstractContextManager[None]:
        capture = self._config.pluginmanager.get_plugin("capturemanager")
        return capture.global_and_fixture_disabled() if capture else nullcontext()
