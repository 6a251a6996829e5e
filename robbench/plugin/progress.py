"""The progress line of a run, and what must be said before a stage ends."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robbench.stages.graph import Graph

LIVE, LOGGED = 0.2, 60.0
"""Least seconds between two lines of progress: on a terminal, where the line is drawn anew, and off it."""


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
        from robbench.report.terminal import progress_line

        reporter, now = self._reporter(), time.monotonic()
        live = reporter is not None and reporter.isatty
        about = "stages" if "stages" in what else what
        if self._about != about:
            self._about, self._since, self._from = about, now, done
        if now - self._last < (LIVE if live else LOGGED):
            return
        self._last = now
        number = "" if about == "stages" else self._number()
        line = f"  {number}{progress_line(what, done, total, now - self._since, self._from)}  {detail}".rstrip()
        if live:
            self._drawn = True
            self._draw(reporter, line[: reporter._tw.fullwidth - 1])
        else:
            self.announce(line)

    def show_graph(self, graph: Graph, running: Sequence[tuple[str, str, float]]) -> None:
        """Say how many stages are done, of how many, and what runs where: name, host and share done."""
        done = sum(future.done() for future in graph.futures.values())
        where = ", ".join(f"{name} {share:.0%} on {host}" for name, host, share in running)
        total, names = len(graph.futures), {task.name for task in graph.futures}
        shares = sum(share for name, _, share in running if name in names)  # not of parts that workers share
        self.show(f"{done}/{total} stages", done + shares, total, where)

    def _number(self) -> str:
        """``[3/26] ``: the item of this run; nothing in a worker of pytest-xdist, which knows its own ones only."""
        from robbench.plugin.session import SESSION

        session = self._config.stash.get(SESSION, None)
        if session is None or hasattr(self._config, "workerinput"):
            return ""
        total = sum(map(len, session.selected.values()))
        return f"[{min(self._items + 1, total)}/{total}] " if total else ""

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
