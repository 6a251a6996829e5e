"""What a tolerance may be."""

import math

import pytest

from robbench.errors import RobbenchError
from robbench.gate.tolerances import Tolerances


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (
            {"pstra": 0.1},
            "unknown tolerance 'pstra'; expected one of accuracy, pstar, seconds, seconds_floor (did you mean",
        ),
        ({"accuracy": -0.1}, "tolerance accuracy: expected a number ≥ 0, got -0.1"),
        ({"seconds": 0.9}, "tolerance seconds: expected a number ≥ 1, got 0.9"),
        ({"pstar": "5 %"}, "tolerance pstar: expected a number ≥ 0, got '5 %'"),
    ],
)
def test_impossible_tolerances_are_refused(given_, message):
    """A typo must not silently leave the default in place."""
    with pytest.raises(RobbenchError) as caught:
        Tolerances.of(given_)
    assert str(caught.value).startswith(message)


def test_a_marker_may_set_each_tolerance():
    """None at all, and for seconds infinitely much, are tolerances; the others keep their defaults."""
    assert Tolerances.of({}) == Tolerances(pstar=0.05, accuracy=0.01, seconds=1.25, seconds_floor=2.0)
    assert Tolerances.of({"pstar": 0, "seconds": math.inf}) == Tolerances(pstar=0, seconds=math.inf)
