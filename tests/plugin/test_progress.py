"""What a run says while a stage runs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from robbench.plugin import progress
from robbench.plugin.progress import Progress
from robbench.plugin.session import SESSION


@pytest.fixture
def shown(monkeypatch):
    """The lines of a training of a hundred seconds, with a look each second."""

    def run(*, isatty):
        lines, now = [], [0.0]
        reporter = SimpleNamespace(
            isatty=isatty,
            _tw=SimpleNamespace(fullwidth=80),
            rewrite=lambda text, erase: lines.append(text),
            write_line=lines.append,
            write=lambda text, flush: None,
            flush=lambda: None,
        )
        plugins = SimpleNamespace(get_plugin={"terminalreporter": reporter}.get, register=lambda plugin: None)
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        selected = {"demo": ["a", "b", "c"]}
        config = SimpleNamespace(pluginmanager=plugins, stash={SESSION: SimpleNamespace(selected=selected)})
        line = Progress(config)
        line.pytest_runtest_teardown(SimpleNamespace(callspec=SimpleNamespace(params={"model": "a"})))
        for second in range(101):
            now[0] = float(second)
            line.show("training of b", second / 10, 10, "loss 0.50")
        return lines

    return run


def test_a_terminal_has_a_line_that_changes(shown):
    """Which of the items, what runs, how much, how long it takes, and what is said of it."""
    lines = shown(isatty=True)
    assert len(lines) == 100
    assert lines[49] == "  [2/3] training of b   50%  0:50 left  loss 0.50"


def test_a_log_has_a_line_a_minute(shown):
    """The same line."""
    assert shown(isatty=False) == ["  [2/3] training of b   60%  0:40 left  loss 0.50"]
