"""The wording of errors: expectation, value, and the nearest valid name."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError, require, unknown


def test_an_unknown_name_is_answered_with_the_nearest():
    """The options are sorted, and a near miss is named."""
    assert str(unknown("dataset", "emnits", ["mnist", "emnist", "cifar10"])) == (
        "unknown dataset 'emnits'; expected one of cifar10, emnist, mnist (did you mean 'emnist'?)"
    )


def test_a_far_name_gets_no_hint():
    """A wrong hint would be worse than none."""
    assert str(unknown("device", "zzz", ["cpu", "cuda"])) == "unknown device 'zzz'; expected one of cpu, cuda"


@given(st.text(max_size=8), st.one_of(st.integers(), st.text(max_size=5), st.none()))
def test_require_names_field_expectation_and_value(field, value):
    """A condition that holds says nothing; one that does not says all three."""
    require(True, field, "an integer ≥ 1", value)
    with pytest.raises(RobbenchError) as caught:
        require(False, field, "an integer ≥ 1", value)
    assert str(caught.value) == f"{field}: expected an integer ≥ 1, got {value!r}"
    assert isinstance(caught.value, ValueError)
