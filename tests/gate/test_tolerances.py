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
        ({"seconds_floor": math.inf}, "tolerance seconds_floor: expected a number ≥ 0, got inf"),
        ({"pstar": "5 %"}, "tolerance pstar: expected a number ≥ 0, got '5 %'"),
        ({"pstar": True}, "tolerance pstar: expected a number ≥ 0, got True"),
    ],
)
def test_impossible_tolerances_are_refused(given_, message):
    """A typo must not silently leave the default in place."""
    with pytest.raises(RobbenchError) as caught:
        Tolerances.of(given_)
    assert str(caught.value).startswith(message)


def test_the_default_tolerances():
    """5 % of median p*, one point of accuracy, a quarter more seconds and two at least."""
    assert Tolerances.of({}) == Tolerances(pstar=0.05, accuracy=0.01, seconds=1.25, seconds_floor=2.0)


def test_the_least_tolerances():
    """None at all, and for seconds infinitely much, are tolerances."""
    least = {"pstar": 0, "accuracy": 0.0, "seconds": 1.0, "seconds_floor": 0}
    assert Tolerances.of(least) == Tolerances(**least)
    assert Tolerances.of({"seconds": math.inf}).seconds == math.inf
