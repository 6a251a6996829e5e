"""Records: the figures that follow from a distribution, and their JSON."""

import json
import math
import statistics

import msgspec
import numpy as np
import pytest
from factories import GRID, make_facts, robustness_record, training_record
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.estimation.sampling import choose_images
from robbench.record import (
    MISCLASSIFIED,
    Counts,
    Record,
    Robustness,
    Seconds,
    median_pstar,
)

PLACES = st.lists(st.integers(MISCLASSIFIED, len(GRID)), min_size=1, max_size=30)
FACTS = make_facts()


def robustness(places):
    """A distribution over the grid of the factories."""
    return robustness_record(FACTS, places).robustness


@pytest.mark.parametrize(
    ("places", "median"),
    [
        ([1, 2, 4], 0.2),
        ([4, 1, 2], 0.2),
        ([1, 2], 0.15),
        ([0], 0.0),
        ([-1, -1, 3], 0.3),
        ([1, 5, 5], math.inf),
        ([1, 1, 5, 5], math.inf),
        ([5, 5], math.inf),
        ([1, 2, 5], 0.2),
        ([-1, -1], None),
    ],
)
def test_the_median_of_a_distribution(places, median):
    """Odd, even, wrong images left out, censored above every grid value, none without a correct image."""
    assert robustness(places).median == (None if median is None else pytest.approx(median))


@settings(max_examples=60, deadline=None)
@given(PLACES)
def test_the_median_is_that_of_the_values(places):
    """The same as Python's over the p* themselves, the censored being infinite, the wrong left out."""
    values = [[*GRID, math.inf][place] for place in places if place != MISCLASSIFIED]
    expected = statistics.median(values) if values else None
    assert robustness(places).median == (None if expected is None else pytest.approx(expected))
    assert median_pstar((place for place in places if place != MISCLASSIFIED), GRID) == robustness(places).median


@settings(max_examples=60, deadline=None)
@given(PLACES)
def test_robust_accuracy_falls_from_clean_accuracy(places):
    """At every radius it is the share of images whose p* is larger; at 0 it is at most the clean accuracy."""
    result = robustness(places)
    curve = [result.robust(epsilon).correct for epsilon in GRID]
    assert curve == sorted(curve, reverse=True)
    assert curve == [sum(place > at for place in places) for at in range(len(GRID))]
    assert all(result.robust(epsilon).total == len(places) for epsilon in GRID)
    if 0 not in places:
        assert result.robust(0.0) == result.clean
    assert result.clean.correct == len(places) - places.count(MISCLASSIFIED)
    assert curve[-1] == result.censored == places.count(len(GRID))


def test_robust_accuracy_of_a_radius_off_the_grid_is_refused():
    """A float that differs in its last bits is on it."""
    assert robustness([1, 4]).robust(0.1 + 0.2) == Counts(correct=1, total=2)
    with pytest.raises(RobbenchError, match=r"expected an epsilon of the grid, got 0\.25 \(nearest 0\.\d"):
        robustness([1]).robust(0.25)


@settings(max_examples=40, deadline=None)
@given(PLACES)
def test_a_distribution_counts_every_correct_image_once(places):
    """One count per grid value, the censored last."""
    counts = robustness(places).distribution()
    assert counts.tolist() == [places.count(place) for place in range(len(GRID) + 1)]
    assert counts.dtype == np.int64
    assert counts.sum() == robustness(places).clean.correct


@settings(max_examples=25, deadline=None)
@given(PLACES, st.booleans(), st.floats(0, 1e6))
def test_json_round_trip(places, trained, seconds):
    """A record read back from its JSON is equal, and so is its JSON."""
    record = training_record(FACTS, seconds) if trained else robustness_record(FACTS, places)
    data = msgspec.json.encode(record)
    assert msgspec.json.decode(data, type=Record) == record
    assert msgspec.json.encode(msgspec.json.decode(data, type=Record)) == data


def test_a_record_is_named_by_case_and_stage():
    """It names its baseline's file too."""
    assert training_record(FACTS).name == "cnn7-mnist-pgd.training"
    assert robustness_record(FACTS, [1]).name == "cnn7-mnist-pgd.robustness"


def test_seconds_that_are_judged_and_seconds_that_are_published():
    """Training or estimation alone against the sum of everything."""
    seconds = Seconds(training=8.0, validation=4.0, warm_up=2.0, io=1.0)
    assert (seconds.measured, seconds.total) == (8.0, 15.0)
    assert (Seconds(estimation=3.0, io=1.0).measured, Seconds(estimation=3.0, io=1.0).total) == (3.0, 4.0)


@pytest.mark.parametrize(
    ("seconds", "waited", "share", "busy"),
    [
        (10.0, 0.0, 0.0, False),
        (10.0, 1.0, 0.1, False),
        (10.0, 1.1, 0.11, True),
        (10.0, 99.0, 1.0, True),
        (0.9, 0.9, 1.0, False),
    ],
)
def test_the_share_of_time_in_line(seconds, waited, share, busy):
    """What is shorter than a second is never called busy: it is no measure anyway."""
    record = training_record(FACTS)
    record = msgspec.structs.replace(record, seconds=Seconds(training=seconds, io=50.0, waiting_for_core=waited))
    assert record.waiting_for_core == pytest.approx(share)
    assert record.measured_busy == busy


def test_nothing_measured_is_nothing_in_line():
    """A user's checkpoint takes no seconds."""
    record = msgspec.structs.replace(training_record(FACTS), seconds=Seconds(waiting_for_core=1.0))
    assert record.waiting_for_core == 0
    assert not record.measured_busy


def test_shares():
    """NaN of nothing, so that it can never pass for a figure."""
    assert Counts(correct=3, total=4).share == 0.75
    assert math.isnan(Counts(correct=0, total=0).share)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": [0, 1]}, "expected one p\\* per image, got 3 for 2 images"),
        ({"grid": []}, "expected one p\\* per image, got 3 for 3 images"),
        ({"pstar": [0, 1, 6]}, "expected places from -1 to 5 in pstar"),
        ({"pstar": [0, 1, -2]}, "expected places from -1 to 5 in pstar"),
    ],
)
def test_impossible_distributions_are_refused(changes, message):
    """When built and when read."""
    values = msgspec.to_builtins(robustness([1, 2, 3])) | changes
    with pytest.raises(ValueError, match=message):
        Robustness(**values)
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.convert(values, Robustness)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": "robbench.record/0"}, "expected schema 'robbench.record/1', got 'robbench.record/0'"),
        ({"stage": "training"}, "expected the result of a training stage and no other"),
        ({"robustness": None}, "expected the result of a robustness stage and no other"),
        ({"stage": "timing"}, "Invalid enum value 'timing'"),
        ({"extra": 1}, "unknown field `extra`"),
        ({"digest": 1}, "Expected `str`, got `int`"),
    ],
)
def test_records_of_another_form_are_refused(changes, message):
    """Other schema, wrong or missing result, unknown stage, unknown field, wrong type."""
    values = msgspec.to_builtins(robustness_record(FACTS, [1])) | changes
    with pytest.raises(msgspec.ValidationError, match=message):
        msgspec.json.decode(json.dumps(values), type=Record)


def test_records_do_not_change():
    """They are values."""
    with pytest.raises(AttributeError, match="immutable"):
        training_record(FACTS).digest = "1"


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_chosen_images_are_unique_ascending_and_seeded(total, count, seed):
    """As many as asked for or there are, the same for the same seed."""
    chosen = choose_images(total, count, seed)
    assert chosen == sorted(set(chosen)) == choose_images(total, count, seed)
    assert len(chosen) == min(count, total)
    assert chosen[0] >= 0
    assert chosen[-1] < total
    assert all(type(index) is int for index in chosen)


def test_another_seed_chooses_other_images():
    """And fewer images are no mere beginning of the test set."""
    assert choose_images(1000, 100, 0) != choose_images(1000, 100, 1)
    assert max(choose_images(1000, 100, 0)) > 800
