"""The stopwatch: every second goes to its region, and to no other."""

from __future__ import annotations

from contextlib import suppress

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import robbench.machine.timing
from robbench.machine.timing import Stopwatch, waiting_for_core
from robbench.record import Seconds

REGIONS = ("training", "validation", "estimation", "warm_up", "io")
DURATIONS = st.lists(st.tuples(st.sampled_from(REGIONS), st.integers(0, 10**9)), max_size=20)
"""Regions one after another with their microseconds."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self):
        self.now = 1234.5

    def perf_counter(self):
        """Seconds since some moment."""
        return self.now


@pytest.fixture
def clock(monkeypatch):
    """The clock that the stopwatch reads; no thread waits for a core."""
    clock = Clock()
    monkeypatch.setattr(robbench.machine.timing, "time", clock)
    monkeypatch.setattr(robbench.machine.timing, "waiting_for_core", lambda: {"1": 5.0})
    return clock


@pytest.fixture
def stopwatch(clock):
    """A stopwatch of the CPU."""
    return Stopwatch(torch.device("cpu"))


def test_waiting_for_data_is_part_of_its_region(stopwatch, clock):
    """It is counted beside the region's seconds, not out of them, and goes on from a saved state."""
    stopwatch.add(Seconds(training=1.0, waiting_for_data=0.5))
    with stopwatch.region("training"):
        clock.now += 2
        with stopwatch.waiting_for_data():
            clock.now += 3
    assert (stopwatch.seconds.training, stopwatch.seconds.waiting_for_data) == (6.0, 3.5)
    assert stopwatch.seconds.total == 6.0


@given(DURATIONS)
def test_the_regions_of_a_name_add_up(durations):
    """Each region's seconds are the sum of its blocks, and time between blocks is nobody's."""
    clock = Clock()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(robbench.machine.timing, "time", clock)
        stopwatch = Stopwatch(torch.device("cpu"))
        for name, microseconds in durations:
            clock.now += 17
            with stopwatch.region(name):
                clock.now += microseconds / 1e6
        measured = stopwatch.seconds
    for name in REGIONS:
        expected = sum(duration for region, duration in durations if region == name) / 1e6
        assert getattr(measured, name) == pytest.approx(expected, abs=2e-5)
    assert measured.total == pytest.approx(sum(duration for _, duration in durations) / 1e6, abs=1e-4)


def test_a_running_region_counts_up_to_now_and_an_earlier_run_is_added(clock, stopwatch):
    """A state that is saved inside a block loses nothing, and whoever goes on from it begins there."""
    stopwatch.add(Seconds(estimation=10.0, io=1.5, waiting_for_core=0.5))
    with suppress(KeyError), stopwatch.region("estimation"):  # a block that fails is not counted
        clock.now += 1
        raise KeyError
    with stopwatch.region("estimation"):
        clock.now += 3
        assert stopwatch.seconds == Seconds(estimation=13.0, io=1.5, waiting_for_core=0.5)
        clock.now += 4
    clock.now += 5
    assert stopwatch.seconds == Seconds(estimation=17.0, io=1.5, waiting_for_core=0.5)


def test_a_region_within_another_one_stops_its_clock(clock, stopwatch):
    """As a capture within training; also where the inner one fails."""
    with stopwatch.region("training"):
        clock.now += 1
        with stopwatch.region("warm_up"):
            clock.now += 10
            assert stopwatch.seconds == Seconds(training=1.0, warm_up=10.0)
        clock.now += 2
        assert stopwatch.seconds == Seconds(training=3.0, warm_up=10.0)
        with suppress(KeyError), stopwatch.region("warm_up"):
            clock.now += 20
            raise KeyError
        clock.now += 4
    clock.now += 5
    assert stopwatch.seconds == Seconds(training=7.0, warm_up=10.0)


@pytest.mark.parametrize("name", REGIONS)
def test_waiting_for_a_core_counts_where_a_stage_is_measured(monkeypatch, stopwatch, name):
    """By the thread that waited longest; one that ends takes nothing away, one that begins counts from its beginning."""
    told = [{"old": 100.0, "main": 1.0}, {"main": 2.0, "new": 3.0}]
    monkeypatch.setattr(robbench.machine.timing, "waiting_for_core", lambda: told.pop(0))
    with stopwatch.region(name):
        pass
    assert stopwatch.seconds.waiting_for_core == (3 if name in ("training", "estimation") else 0)


def test_where_the_system_does_not_tell_nobody_waits(monkeypatch, tmp_path):
    """Without the folder, and with a file of another form in it."""
    monkeypatch.setattr(robbench.machine.timing, "_THREADS", tmp_path / "none")
    assert waiting_for_core() == {}
    for thread, text in (("1", "12 3000000000 4"), ("2", "12"), ("3", "a b c")):
        (tmp_path / thread).mkdir()
        (tmp_path / thread / "schedstat").write_text(text)
    monkeypatch.setattr(robbench.machine.timing, "_THREADS", tmp_path)
    assert waiting_for_core() == {"1": 3}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_a_gpu_the_kernels_are_timed_and_not_their_launch():
    """A region lasts until its last kernel ends, which is long after the CPU is through with it."""
    stopwatch = Stopwatch(torch.device("cuda"))
    with stopwatch.region("warm_up"):
        torch.cuda._sleep(1000)
    with stopwatch.region("training"):
        torch.cuda._sleep(200_000_000)  # cycles: more than 50 ms at less than 4 GHz
    assert stopwatch.seconds.training > 0.05
