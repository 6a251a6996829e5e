"""The ``perf`` fixture and marker: rounds beside references, ratios, peak; out of the way unless asked for."""

import json

import pytest
import torch

from robbench.environment import environment
from robbench.models import build
from robbench.plugin.perf import forward_flops

TEST = """
import time
import pytest

pytestmark = pytest.mark.perf
calls = []

def test_it(perf):
    best = perf.compare(
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
    assert set(best) == {"robbench", "theirs"}
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
    assert figures["share_of_peak"] == pytest.approx(figures["gflops"] / figures["peak_gflops"])
    assert (figures["images"], figures["passes_per_image"], figures["group"], figures["more"]) == (10, 3, "demo", 1)
    assert bench["stats"]["rounds"] == 2


def test_benchmarks_run_only_when_asked_for(pytester):
    """Neither unit tests nor suites take the machine for them."""
    (pytester.path / "pytest.ini").write_text("[pytest]\naddopts = -m 'not suite and not perf'")
    pytester.makepyfile(test_it=TEST)
    pytester.runpytest_subprocess("-q").assert_outcomes(deselected=1)
    pytester.runpytest_subprocess("-q", "-m", "suite").assert_outcomes(deselected=1)


def test_forward_flops_are_two_for_a_product_and_a_sum():
    """relu_4_1024 multiplies 784·1024 + 2·1024² + 1024·10 pairs."""
    network = build("relu_4_1024", classes=10, shape=(1, 28, 28))
    assert forward_flops(network, torch.rand(1, 1, 28, 28)) == 2 * (784 * 1024 + 2 * 1024**2 + 1024 * 10)
