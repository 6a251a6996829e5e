"""What a run says while a stage runs."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from robbench.plugin import progress
from robbench.plugin.progress import Progress, progress_line, share_and_left
from robbench.plugin.session import SESSION


class Writer:
    """A terminal of 80 columns, whose width cannot be had while pytest captures."""

    fullwidth = 20


@contextmanager
def uncaptured():
    """What pytest's capture does where it is switched off."""
    Writer.fullwidth = 80
    yield
    Writer.fullwidth = 20


@pytest.fixture
def shown(monkeypatch):
    """The lines of a training of a hundred seconds, with a look each second."""

    def run(*, isatty):
        lines, now = [], [0.0]
        reporter = SimpleNamespace(
            isatty=isatty,
            _tw=Writer(),
            rewrite=lambda text, erase: lines.append(text),
            write_line=lines.append,
            write=lambda text, flush: None,
            flush=lambda: None,
        )
        found = {
            "terminalreporter": reporter,
            "capturemanager": SimpleNamespace(global_and_fixture_disabled=uncaptured),
        }
        plugins = SimpleNamespace(get_plugin=found.get, register=lambda plugin: None)
        monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
        selected = {"demo": ["a", "b", "c"]}
        config = SimpleNamespace(pluginmanager=plugins, stash={SESSION: SimpleNamespace(selected=selected)})
        line = Progress(config)
        line.pytest_runtest_teardown(SimpleNamespace(callspec=SimpleNamespace(params={"model": "a"})))
        for second in range(101):
            now[0] = float(second)
            line.show("training of b", second / 10, 10, "epoch 5 of 10, loss 0.50")
        return lines

    return run


def test_a_terminal_has_a_line_that_changes(shown):
    """Which of the items, what runs, how much, how long it takes, and what is said of it."""
    lines = shown(isatty=True)
    assert len(lines) == 100
    assert lines[49] == "stage 2 of 3 · training of b · epoch 5 of 10, loss 0.50 · 50 % · 50 s left"


def test_a_log_has_a_line_a_minute(shown):
    """The same line."""
    line = "stage 2 of 3 · training of b · epoch 5 of 10, loss 0.50 · 60 % · 40 s left"
    assert shown(isatty=False) == [line]


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (90, "stage 4 of 26 · training of cnn7-pgd · epoch 3 of 9, loss 0.412 · 38 % · 1 min 20 s left"),
        (86, "training of cnn7-pgd · epoch 3 of 9, loss 0.412 · 38 % · 1 min 20 s left"),
        (68, "training of cnn7-pgd · epoch 3 of 9, loss 0.412 · 1 min 20 s left"),
        (60, "cnn7-pgd · epoch 3 of 9, loss 0.412 · 1 min 20 s left"),
        (50, "cnn7-pgd · epoch 3 of 9 · 1 min 20 s left"),
        (40, "cnn7-pgd · epoch 3 of 9 · 1 min 20 s le…"),
    ],
)
def test_a_narrow_terminal_has_what_is_needed_most(width, line):
    """What runs, its epoch, and how long it takes."""
    details = ["epoch 3 of 9, loss 0.412", "epoch 3 of 9"]
    assert progress_line("stage 4 of 26", "training of cnn7-pgd", details, "38 %", "1 min 20 s left", width) == line


@pytest.mark.parametrize(
    ("done", "total", "seconds", "said"),
    [
        (0, 10, 5.0, ("0 %", "")),
        (4.2, 10, 37.0, ("42 %", "51 s left")),
        (5, 10, 600.0, ("50 %", "10 min 0 s left")),
        (1, 10, 860.0, ("10 %", "2 h 9 min left")),
        (10, 10, 60.0, ("100 %", "0 s left")),
        (0, 0, 1.0, ("100 %", "0 s left")),
    ],
)
def test_the_time_left(done, total, seconds, said):
    """At the pace so far; no guess before one per cent."""
    assert share_and_left(done, total, seconds) == said


def test_a_stage_that_goes_on_is_timed_by_what_it_does_now():
    """Half was done before: a quarter in ten seconds leaves another ten."""
    assert share_and_left(7.5, 10, 10.0, begun=5) == ("75 %", "10 s left")


class Named(NamedTuple):
    """A task, as far as its name."""

    name: str


def test_a_cluster_says_what_its_workers_do():
    """How many stages are done, and of each that runs where, how far, and what its worker says of it."""
    shown = []
    line = Progress(SimpleNamespace(pluginmanager=SimpleNamespace(register=lambda plugin: None)))
    line._show = lambda *said: shown.append(said)
    future = {name: SimpleNamespace(done=lambda name=name: name == "a") for name in "abc"}
    graph = SimpleNamespace(futures={Named(name): each for name, each in future.items()})
    line.show_graph(graph, [("b", "node1", 0.5, "epoch 1 of 2"), ("c", "node2", 0.25, "")])
    details = ["b 50 % on node1, epoch 1 of 2; c 25 % on node2", "b 50 % on node1; c 25 % on node2"]
    assert shown == [("stages: 1 of 3 done", 1.75, 3, details)]
