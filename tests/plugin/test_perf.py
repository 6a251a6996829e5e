"""The ``perf`` fixture and marker: rounds beside references, ratios, peak; out of the way unless asked for."""

import json

import pytest
import torch

from robbench.machine.environment import environment
from robbench.plugin.perf import Rounds

TEST = """
import time
import pytest

pytestmark = pytest.mark.perf
calls = []

def test_it(perf):
    rounds = perf.compare(
        lambda: (calls.append("ours"), time.sleep(0.02)),
        {"theirs": lambda: (calls.append("theirs"), time.sleep(0.06))},
        images=10,
        passes=3,
        flops=1e6,
        rounds=2,
        group="demo",
        case="sleep",
    )
    perf.note(more=1)
    assert rounds.ratio("robbench", "theirs") < 1 < rounds.ratio("theirs")
    assert [len(seconds) for seconds in rounds.seconds.values()] == [2, 2]
    assert calls == ["ours", "theirs"] + ["theirs", "ours"] * 2
"""


def test_ratios_come_from_interleaved_rounds(pytester):
    """References first in every round, one discarded call of each before; figures go to pytest-benchmark's JSON."""
    pytester.makepyfile(test_it=TEST)
    result = pytester.runpytest_subprocess("-m", "perf", "--benchmark-json", "out.json", "-q")
    result.assert_outcomes(passed=1)
    saved = json.loads((pytester.path / "out.json").read_text())
    assert saved["machine_info"]["slug"] == environment(torch.device("cpu")).slug
    (bench,) = saved["benchmarks"]
    figures = bench["extra_info"]["perf"]
    assert 2 < figures["ratios"]["theirs"] < 4
    assert 2 <= figures["milliseconds_per_image"] < 4
    assert figures["share_of_peak"] == pytest.approx(figures["gflops"] / figures["peak_gflops"], rel=0.2)
    assert (figures["images"], figures["passes_per_image"], figures["group"], figures["more"]) == (10, 3, "demo", 1)
    assert bench["stats"]["rounds"] == 2


def test_benchmarks_run_only_when_asked_for(pytester):
    """Neither unit tests nor suites take the machine for them."""
    (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = -m 'not suite and not perf'")
    pytester.makepyfile(test_it=TEST)
    pytester.runpytest_subprocess("-q").assert_outcomes(deselected=1)
    pytester.runpytest_subprocess("-q", "-m", "suite").assert_outcomes(deselected=1)


WORK = """
import time
import pytest
from robbench.plugin.perf import Work

pytestmark = pytest.mark.perf

def test_it(perf):
    calls = []
    perf.compare(
        lambda: (calls.append("ours"), time.sleep(0.02)),
        {"theirs": lambda: (calls.append("theirs"), time.sleep(0.04))},
        images=10,
        work=lambda: {"robbench": Work(len(calls), 4e6), "theirs": Work(7, 8e6)},
        warm_up=lambda: calls.append("warm"),
        rounds=1,
        group="demo",
        case="sleep",
    )
    perf.target("against theirs", 2.0, 1.5)
    perf.target("share", 0.2, 0.6)
    assert calls == ["warm", "theirs", "ours"]
"""


def test_work_is_asked_for_at_the_end_and_set_against_each_ones_seconds(pytester):
    """A search knows its passes only when it is over; what is to be reached is kept beside what was."""
    pytester.makepyfile(test_it=WORK)
    pytester.runpytest_subprocess("-m", "perf", "--benchmark-json", "out.json", "-q").assert_outcomes(passed=1)
    figures = json.loads((pytester.path / "out.json").read_text())["benchmarks"][0]["extra_info"]["perf"]
    seconds = figures["milliseconds_per_image"] * figures["images"] / 1000
    assert (figures["passes_per_image"], figures["rounds"]) == (3, 1)
    assert figures["gflops"] == pytest.approx(4e-3 / seconds)
    theirs = figures["references"]["theirs"]
    assert theirs["passes_per_image"] == 7
    assert theirs["gflops"] == pytest.approx(8e-3 / seconds / figures["ratios"]["theirs"])
    assert theirs["share_of_peak"] == pytest.approx(theirs["gflops"] / figures["peak_gflops"])
    assert figures["targets"] == [
        {"what": "against theirs", "value": 2.0, "least": 1.5},
        {"what": "share", "value": 0.2, "least": 0.6},
    ]


def test_a_ratio_is_the_median_of_those_within_a_round():
    """A round that the machine slows down as a whole leaves the ratio alone, and one odd round does too."""
    rounds = Rounds({"robbench": [1.0, 10.0, 1.0], "theirs": [2.0, 20.0, 9.0]})
    assert rounds.ratio("theirs") == 2
    assert rounds.ratio("robbench", "theirs") == 0.5
    assert (rounds["robbench"], rounds["theirs"]) == (1, 9)
