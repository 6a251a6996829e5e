"""When training stops early, and which epoch is kept."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from loops import network, recipe, run, trainer

from robbench.record import Counts, Epoch
from robbench.spec import EarlyStopping
from robbench.training.early_stopping import kept_epoch, stops


def history_of(clean, robust=None, total=100):
    """A history of so many right validation images per epoch."""
    return [
        Epoch(
            epoch=number,
            loss=1.0,
            learning_rate=0.1,
            train=Counts(correct=1, total=2),
            validation=Counts(correct=right, total=total),
            robust=None if robust is None else Counts(correct=robust[number - 1], total=total),
            seconds=1.0,
            validation_seconds=1.0,
        )
        for number, right in enumerate(clean, start=1)
    ]


def first_stop(spec, history):
    """The first epoch after which training stops, or None."""
    return next((n for n in range(len(history) + 1) if stops(spec, history[:n])), None)


@given(st.lists(st.integers(0, 7), max_size=25), st.integers(1, 5), st.integers(1, 6), st.booleans())
def test_early_stopping_is_that_of_a_running_counter(figures, patience, window, robust):
    """An epoch-by-epoch counter, in whole numbers, stops after the same epoch."""
    best, waited, expected = -1, 0, None
    for end in range(window, len(figures) + 1):
        value = sum(figures[end - window : end])
        best, waited = (value, 0) if value > best else (best, waited + 1)
        if waited == patience:
            expected = end
            break
    spec = recipe(early_stopping=EarlyStopping(patience=patience, window=window))
    history = history_of([3] * len(figures), figures, total=7) if robust else history_of(figures, total=7)
    assert first_stop(spec, history) == expected


@pytest.mark.parametrize(("criterion", "kept"), [("robust", 3), ("clean", 2), ("last", 5)])
def test_the_kept_epoch_is_the_first_best_by_its_criterion(criterion, kept):
    """Of equals the first is kept; without an attack, the robust criterion looks at clean accuracy."""
    history = history_of([10, 40, 20, 40, 30], [5, 7, 9, 9, 8])
    assert kept_epoch(recipe(kept_epoch=criterion), history) == kept
    conventional = history_of([10, 40, 20, 40, 30])
    assert kept_epoch(recipe(kept_epoch="robust"), conventional) == 2


def test_early_stopping_ends_the_loop_and_a_stopped_run_stays_stopped():
    """A rate of almost nothing stops after 1 + patience epochs; resumed, the training is done."""
    spec = recipe(learning_rate=1e-12, epochs=50, statistics="running", early_stopping=EarlyStopping(patience=3))
    saved = []
    result = run(network(), spec, saved=saved)
    assert (len(result.epochs), result.stopped_early) == (4, True)
    resumed = trainer(network(), spec)
    resumed.load_state_dict(saved[-1])
    assert resumed.done
    assert resumed.result() == result
