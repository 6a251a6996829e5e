"""The progress line of a run, and what must be said before a stage ends."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from robbench.stages.graph import Graph


class Progress:
    """Writes to the terminal of a run, whatever pytest captures."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._drawn = 0.0
        """When the line was last drawn; 0 while there is none."""
        self._about, self._since = "", 0.0

    def show(self, what: str, done: float, total: float, where: str = "") -> None:
        """Draw a progress line, five times a second at most, and only on a terminal."""
        from robbench.report.terminal import progress_line

        reporter, now = self._reporter(), time.monotonic()
        if reporter is None or not reporter.isatty or now - self._drawn < 0.2:
            return
        about = "stages" if where else what
        if self._about != about:
            self._about, self._since = about, now
        self._drawn = now
        line = f"  {progress_line(what, done, total, now - self._since)}  {where}".rstrip()
        self._draw(reporter, line[: reporter._tw.fullwidth - 1])

    def show_graph(self, graph: Graph, running: Sequence[tuple[str, str, float]]) -> None:
        """Draw how many stages are done, of how many, and what runs where: name, host and share done."""
        done = sum(future.done() for future in graph.futures.values())
        where = ", ".join(f"{name} {share:.0%} on {host}" for name, host, share in running)
        total, names = len(graph.futures), {task.name for task in graph.futures}
        shares = sum(share for name, _, share in running if name in names)  # not of parts that workers share
        self.show(f"{done}/{total} stages", done + shares, total, where)

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
            self._drawn = 0.0
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
