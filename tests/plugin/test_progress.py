"""What a run says while a stage runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robbench.plugin import progress
from robbench.plugin.progress import Progress
from robbench.plugin.session import SESSION


class Reporter:
    """A terminal, or a file."""

    def __init__(self, isatty):
        self.isatty, self.lines, self._tw = isatty, [], SimpleNamespace(fullwidth=80)

    def rewrite(self, line, erase):
        self.lines.append(line)

    def write(self, text, flush):
        pass

    def flush(self):
        pass

    def write_line(self, line):
        self.lines.append(line)


@pytest.fixture
def shown(monkeypatch):
    """The lines of a training of a hundred seconds, with a look each second."""

    def lines(*, isatty):
        reporter, now = Reporter(isatty), [0.0]
        plugins = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get, register=lambda plugin: None)
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        selected = {"demo": ["a", "b", "c"]}
        config = SimpleNamespace(pluginmanager=plugins, stash={SESSION: SimpleNamespace(selected=selected)})
        line = Progress(config)
        line.pytest_runtest_teardown(SimpleNamespace(callspec=SimpleNamespace(params={"model": "a"})))
        for second in range(101):
            now[0] = float(second)
            line.show("training of b", second / 10, 10, "loss 0.50")
        return reporter.lines

    return lines


def test_a_terminal_has_a_line_that_changes(shown):
    """Which of the items, what runs, how much, how long it takes, and what is said of it."""
    lines = shown(isatty=True)
    assert len(lines) == 100
    assert lines[49] == "  [2/3] training of b   50%  0:50 left  loss 0.50"


def test_a_log_has_a_line_a_minute(shown):
    """The same line."""
    assert shown(isatty=False) == ["  [2/3] training of b   60%  0:40 left  loss 0.50"]
