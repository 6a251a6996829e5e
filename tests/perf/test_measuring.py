"""What the benchmarks of ``suites/perf`` measure: rounds beside references, ratios within a round, and arithmetic."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import suites.perf.measuring
from suites.perf.measuring import Perf, Rounds, Work


class Benchmark:
    """What ``Perf`` needs of pytest-benchmark's fixture."""

    def __init__(self):
        self.extra_info = {}

    def pedantic(self, function, setup, rounds, iterations):
        """Run everything so many times."""
        for _ in range(rounds):
            setup()
            function()


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still, unless a test lets it go on."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(suites.perf.measuring, "perf_counter", lambda: clock.now)
    return clock


@pytest.fixture
def perf(clock, monkeypatch):
    """A measurement on the CPU, whose matrix products have a peak of a gigaflop a second."""
    monkeypatch.setattr(Perf, "peak", lambda perf, precision: 1e9)
    return Perf(Benchmark(), SimpleNamespace(device=torch.device("cpu")))


def taking(clock, name, seconds, calls):
    """A function that takes so many seconds a call, the last ones for ever after."""
    left = list(seconds)

    def run():
        calls.append(name)
        clock.now += left.pop(0) if len(left) > 1 else left[0]

    return run


def test_every_round_runs_the_references_first(perf, clock):
    """After one discarded call of each."""
    calls = []
    ours, theirs = (taking(clock, name, [1.0], calls) for name in ("ours", "theirs"))
    perf.compare(ours, {"theirs": theirs}, images=10, rounds=2)
    assert calls == ["ours", "theirs", *["theirs", "ours"] * 2]


def test_a_ratio_is_the_median_of_those_within_a_round():
    """A round that the machine slows down as a whole leaves the ratio alone, and one odd round does too."""
    rounds = Rounds({"robbench": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 9.0]}, [])
    assert (rounds.ratio("theirs"), rounds.ratio("robbench", "theirs")) == (2, 0.5)
    assert (rounds["robbench"], rounds["theirs"]) == (1, 9)


def test_the_figures_follow_from_the_seconds(perf, clock):
    """Time for each image, ratio, arithmetic, and its share of the peak."""
    ours, theirs = taking(clock, "ours", [2.0], []), taking(clock, "theirs", [6.0], [])
    perf.compare(ours, {"theirs": theirs}, images=10, passes=3, flops=1e9, rounds=3, group="demo", case="one")
    perf.note(more=1)
    perf.target("against theirs", 3.0, 4.0)
    figures = perf.figures
    assert figures["device"].startswith("cpu-")
    assert figures["milliseconds_per_image"] == 200
    assert figures["ratios"] == {"theirs": 3}
    assert (figures["gflops"], figures["peak_gflops"], figures["share_of_peak"]) == (0.5, 1, 0.5)
    assert (figures["images"], figures["passes_per_image"], figures["rounds"]) == (10, 3, 3)
    assert (figures["group"], figures["case"], figures["more"]) == ("demo", "one", 1)
    assert figures["targets"] == [{"what": "against theirs", "value": 3.0, "least": 4.0}]


def test_work_that_only_the_run_tells_is_asked_for_at_its_end(perf, clock):
    """A search knows its passes when it is over; each reference has its own."""
    calls = []
    ours, theirs = taking(clock, "ours", [2.0], calls), taking(clock, "theirs", [4.0], calls)
    perf.compare(
        ours,
        {"theirs": theirs},
        images=10,
        work=lambda: {"robbench": Work(len(calls), 1e9), "theirs": Work(7, 1e9)},
        warm_up=lambda: calls.append("warm"),
        rounds=1,
    )
    assert calls == ["warm", "theirs", "ours"]
    assert (perf.figures["passes_per_image"], perf.figures["gflops"]) == (3, 0.5)
    assert perf.figures["references"] == {"theirs": {"passes_per_image": 7, "gflops": 0.25, "share_of_peak": 0.25}}


def test_the_peak_is_that_of_matrix_products(monkeypatch):
    """Two operations for each product and sum, by the seconds of as many products as a quarter of a second takes."""
    ticks = iter([0.0, 9.0, 9.0, 9.1, 10.0, 10.5])  # a discarded product, one that takes 0.1 s, and 3 in half a second
    monkeypatch.setattr(suites.perf.measuring, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(suites.perf.measuring, "PEAK_SIDE", {"cpu": 8})
    perf = Perf(Benchmark(), SimpleNamespace(device=torch.device("cpu")))
    assert perf.peak() == pytest.approx(3 * 2 * 8**3 / 0.5)
