"""Records: the figures that follow from a distribution, and their JSON."""

import json
import math
import statistics

import msgspec
import pytest
from factories import GRID, make_facts, robustness_record, training_record
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.record import MISCLASSIFIED, AttackAccuracy, Counts, Record, Robustness, Seconds, Training, median_pstar

INDICES = st.lists(st.integers(MISCLASSIFIED, len(GRID)), min_size=1, max_size=30)
FACTS = make_facts()


def robustness(indices):
    """A distribution over the grid of the factories."""
    return robustness_record(FACTS, indices).robustness


@given(INDICES)
def test_the_median_is_that_of_the_values(indices):
    """The same as Python's over the p* themselves, the censored being infinite, the misclassified left out."""
    correct = [index for index in indices if index != MISCLASSIFIED]
    expected = statistics.median([[*GRID, math.inf][index] for index in correct]) if correct else None
    assert robustness(indices).median == (None if expected is None else pytest.approx(expected))
    assert median_pstar(correct, GRID) == robustness(indices).median


@given(INDICES)
def test_robust_accuracy_is_the_share_of_larger_pstar(indices):
    """At every radius; the distribution counts every correct image once, the censored last."""
    result = robustness(indices)
    curve = [result.robust(epsilon) for epsilon in GRID]
    assert curve == [Counts(correct=sum(i > at for i in indices), total=len(indices)) for at in range(len(GRID))]
    assert result.clean == Counts(correct=len(indices) - indices.count(MISCLASSIFIED), total=len(indices))
    assert curve[-1].correct == result.censored == indices.count(len(GRID))
    assert result.distribution().tolist() == [indices.count(index) for index in range(len(GRID) + 1)]


def test_robust_accuracy_between_two_radii_is_read_at_the_larger():
    """A float that differs in its last bits is on the grid; one past its end is refused."""
    assert robustness([1, 4]).robust(0.1 + 0.2) == Counts(correct=1, total=2)
    assert robustness([2, 3]).robust(0.15) == robustness([2, 3]).robust(0.2) == Counts(correct=1, total=2)
    with pytest.raises(RobbenchError, match=r"radius: expected at most 0\.\d, where the grid ends, got 0\.5"):
        robustness([1]).robust(0.5)


def test_figures_are_plain_and_finite():
    """JSON has no infinity: a censored median is None, and says so."""
    assert training_record(FACTS).result.figures() == {"epochs": 3, "validation_accuracy": 0.5}
    tested = [
        AttackAccuracy(attack=attack, epsilon=0.1, steps=steps, step_size=0.1, robust=Counts(correct=1, total=4))
        for attack, steps in (("fgsm", 1), ("pgd", 40))
    ]
    result = msgspec.structs.replace(robustness([-1, 1, 2, 3]), attacks=tested)
    assert result.figures() == {
        "accuracy": 0.75,
        "median_pstar": pytest.approx(0.2),
        "median_pstar_censored": False,
        "forward_passes": 1_000,
        "backward_passes": 900,
        "robust_accuracy_fgsm_0.1": 0.25,
        "robust_accuracy_pgd40_0.1": 0.25,
    }
    censored, nothing = robustness([5, 5]).figures(), robustness([-1]).figures()
    assert (censored["median_pstar"], censored["median_pstar_censored"]) == (None, True)
    assert (nothing["median_pstar"], nothing["median_pstar_censored"]) == (None, False)


@given(INDICES, st.booleans(), st.floats(0, 1e6))
def test_json_round_trip(indices, trained, seconds):
    """A record read back from its JSON is equal, with a result of its stage's type."""
    record = training_record(FACTS, seconds) if trained else robustness_record(FACTS, indices, key="0" * 64)
    again = msgspec.json.decode(msgspec.json.encode(record), type=Record)
    assert again == record
    assert isinstance(again.result, Training if trained else Robustness)
    assert (again.training, again.robustness) == ((again.result, None) if trained else (None, again.result))
    assert again.name == f"cnn7-mnist-pgd.{'training' if trained else 'robustness'}"


def test_seconds_that_are_judged_and_seconds_that_are_published():
    """Training or estimation alone against the sum of everything."""
    seconds = Seconds(training=8.0, validation=4.0, warm_up=2.0, io=1.0)
    assert (seconds.measured, seconds.total) == (8.0, 15.0)
    assert (Seconds(estimation=3.0, io=1.0).measured, Seconds(estimation=3.0, io=1.0).total) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("seconds", "waited", "share", "busy"),
    [
        (10.0, 1.0, 0.1, False),
        (10.0, 1.1, 0.11, True),
        (0.9, 0.9, 1.0, False),
        (0.0, 1.0, 0.0, False),
    ],
)
def test_the_share_of_time_waiting_for_a_core(seconds, waited, share, busy):
    """A stage shorter than a second is never called busy; a user's checkpoint takes no seconds at all."""
    record = training_record(FACTS)
    record = msgspec.structs.replace(record, seconds=Seconds(training=seconds, io=50.0, waiting_for_core=waited))
    assert record.waiting_for_core == pytest.approx(share)
    assert record.measured_busy == busy


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ({"images": [0, 1]}, r"expected one p\* per image, got 3 for 2 images"),
        ({"pstar": [0, 1, 6]}, "expected grid indices from -1 to 5 in pstar"),
        ({"epochs": []}, "unknown field `epochs`"),
    ],
)
def test_contradictions_in_a_result_are_refused(result, message):
    """When a record is read."""
    values = msgspec.to_builtins(robustness_record(FACTS, [1, 2, 3]))
    values["result"] |= result
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(json.dumps(values), type=Record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "robbench.record/0"}, "expected schema 'robbench.record/1', got 'robbench.record/0'"),
        ({"stage": "training"}, "missing required field|unknown field"),
        ({"extra": 1}, "unknown field `extra`"),
    ],
)
def test_records_of_another_form_are_refused(changes, message):
    """Other schema, another stage's result, unknown field, wrong type."""
    values = msgspec.to_builtins(robustness_record(FACTS, [1])) | changes
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(json.dumps(values), type=Record)
