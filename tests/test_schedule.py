"""What a recipe decides by epoch: rates as torch's schedulers have them, the ramp, early stopping, the kept epoch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robbench.record import Counts, Epoch
from robbench.schedule import kept_epoch, learning_rate, ramp, stops, watched
from robbench.spec import PGD, EarlyStopping, MultiStepLR, OneCycle, Recipe, StepLR

ADVERSARY = PGD(epsilon=0.1, step_size=0.06, steps=2)


def recipe(**changes):
    """Three epochs at a constant rate of 0.1."""
    plain = {"optimiser": "sgd", "learning_rate": 0.1, "weight_decay": 0.0, "batch_size": 8, "epochs": 3}
    return Recipe(**(plain | changes))


# --- learning rate and ramp -------------------------------------------------------------------------------------------


def torch_rates(make, rate, epochs):
    """The rate of every epoch by a scheduler of torch's."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    scheduler = make(optimiser)
    rates = []
    for _ in range(epochs):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        scheduler.step()
    return rates


SCHEDULES = st.one_of(
    st.builds(StepLR, step=st.integers(1, 9), gamma=st.floats(0.05, 1.0)),
    st.builds(
        MultiStepLR,
        milestones=st.sets(st.integers(1, 25), max_size=4).map(lambda epochs: tuple(sorted(epochs))),
        gamma=st.floats(0.05, 1.0),
    ),
)


@settings(max_examples=40, deadline=None)
@given(SCHEDULES, st.floats(1e-4, 1.0), st.integers(1, 500))
def test_rates_are_those_of_torchs_schedulers(schedule, rate, updates):
    """In every epoch, at its first, a middle and its last update, the rate is that of torch's scheduler."""
    if isinstance(schedule, StepLR):
        expected = torch_rates(lambda o: torch.optim.lr_scheduler.StepLR(o, schedule.step, schedule.gamma), rate, 25)
    else:
        milestones, gamma = list(schedule.milestones), schedule.gamma
        expected = torch_rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, milestones, gamma), rate, 25)
    spec = recipe(learning_rate=rate, schedule=schedule, epochs=25)
    for update in {0, updates // 2, updates - 1}:
        rates = [learning_rate(spec, epoch + update / updates, updates) for epoch in range(25)]
        assert rates == pytest.approx(expected, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 40), st.floats(0.05, 0.9))
def test_one_cycle_rises_then_falls_to_almost_nothing(epochs, updates, warm_up):
    """Update by update the rate rises linearly to at most the recipe's, falls linearly, and ends one step above 0."""
    spec = recipe(learning_rate=0.4, schedule=OneCycle(warm_up=warm_up), epochs=epochs)
    rates = [learning_rate(spec, e + u / updates, updates) for e in range(epochs) for u in range(updates)]
    total = epochs * updates
    expected = [0.4 * min(d / warm_up, (1 - d) / (1 - warm_up)) for d in (n / (total + 1) for n in range(1, total + 1))]
    assert rates == pytest.approx(expected, rel=1e-6)
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)
    assert min(rates) > 0
    assert max(rates) <= 0.4 * (1 + 1e-9)
    assert rates[-1] <= 0.4 / (total + 1) / (1 - warm_up) * (1 + 1e-6)


def test_without_a_schedule_the_rate_is_constant():
    """Every epoch has the recipe's rate."""
    assert {learning_rate(recipe(), epoch / 3, 3) for epoch in range(9)} == {0.1}


def test_the_radius_grows_linearly_over_the_ramp():
    """From 0 at the start, by position, to 1 at the end of the ramp and after; without a ramp it is whole at once."""
    spec = recipe(attack=ADVERSARY, ramp_epochs=2.5)
    assert [ramp(spec, position) for position in (0, 0.5, 1.25, 2.5, 7)] == [0, 0.2, 0.5, 1, 1]
    assert ramp(recipe(attack=ADVERSARY), 0) == 1


# --- early stopping and the kept epoch --------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("clean", "robust", "patience", "window", "stop"),
    [
        ([10, 20, 20, 20, 30], None, 2, 1, 4),  # a tie is no improvement
        ([10, 20, 19, 21, 20, 20], None, 2, 1, 6),
        ([50, 40, 41, 42], None, 3, 1, 4),
        ([50, 40, 41], None, 3, 1, None),
        ([10, 20, 30, 40], None, 1, 1, None),
        ([90, 80, 70, 60, 50], [1, 2, 3, 4, 5], 1, 1, None),  # robust accuracy counts, not clean
        ([1, 2, 3, 4, 5], [9, 8, 7, 6, 5], 2, 1, 3),
        ([9, 9, 9, 9, 9], [50, 40, 30, 20, 10], 2, 3, 5),  # averages 40, 30, 20
        ([9, 9, 9, 9, 9], [10, 20, 30, 30, 0], 2, 3, None),  # averages 20, 26.7, 20
        ([9] * 4, [30, 0, 10, 20], 2, 2, 4),  # averages 15, 5, 15, although 0.1 + 0.2 > 0.3 + 0.0 in floats
    ],
)
def test_training_stops_when_the_watched_figure_no_longer_improves(clean, robust, patience, window, stop):
    """Patience counts epochs since the best moving average, from the first full window on; ties do not improve."""
    spec = recipe(early_stopping=EarlyStopping(patience=patience, window=window))
    assert first_stop(spec, history_of(clean, robust)) == stop


@settings(max_examples=100, deadline=None)
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
    assert len(watched(spec, history, spec.early_stopping)) == max(0, len(figures) - window + 1)


def test_without_a_rule_training_never_stops_early():
    """A hundred epochs of no progress are trained to the end."""
    assert first_stop(recipe(), history_of([5] * 100)) is None


@pytest.mark.parametrize(
    ("criterion", "kept"), [("robust", 3), ("clean", 2), ("last", 5)], ids=["robust", "clean", "last"]
)
def test_the_kept_epoch_is_the_first_best_by_its_criterion(criterion, kept):
    """Of equals the first is kept; without an attack, the robust criterion looks at clean accuracy."""
    history = history_of([10, 40, 20, 40, 30], [5, 7, 9, 9, 8])
    assert kept_epoch(recipe(checkpoint=criterion), history) == kept
    conventional = history_of([10, 40, 20, 40, 30])
    assert kept_epoch(recipe(checkpoint="robust"), conventional) == 2
