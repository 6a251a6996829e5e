"""The clock that a stage moves."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robbench.plugin.clock import Clock


@given(st.lists(st.floats(0, 1e4), max_size=5))
def test_the_clock_shows_what_it_was_advanced_by(steps):
    """From zero, the sum; reading it does not move it."""
    clock = Clock()
    assert clock() == 0.0
    for seconds in steps:
        clock.advance(seconds)
    assert clock() == clock() == pytest.approx(sum(steps))


def test_the_clock_stands_still_while_time_passes():
    """pytest-benchmark reads it before and after a stage, and sees the measured seconds alone."""
    clock = Clock()
    before = clock()
    time.sleep(0.01)
    assert clock() == before
    assert clock.__name__ == "stage_clock"
