"""Learning rate and radius of every update."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loops import ADVERSARY, network, problem, recipe, run
from torch import nn

import robbench.training.updates
from robbench.data import Images
from robbench.spec import PGD, MultiStepLR, OneCycle, StepLR
from robbench.training.schedule import learning_rate


def torch_rates(make, rate, epochs):
    """The rate of every epoch by a scheduler of torch's."""
    optimiser = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=rate)
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


@given(st.integers(1, 8), st.integers(1, 40), st.floats(0.05, 0.9))
def test_one_cycle_rises_then_falls_to_almost_nothing(epochs, updates, warm_up):
    """Update by update the rate rises linearly to the recipe's, falls linearly, and ends one step above 0."""
    spec = recipe(learning_rate=0.4, schedule=OneCycle(warm_up=warm_up), epochs=epochs)
    rates = [learning_rate(spec, e + u / updates, updates) for e in range(epochs) for u in range(updates)]
    total = epochs * updates
    expected = [0.4 * min(d / warm_up, (1 - d) / (1 - warm_up)) for d in (n / (total + 1) for n in range(1, total + 1))]
    assert rates == pytest.approx(expected, rel=1e-6)


def test_the_ramp_scales_radius_and_step_of_every_update(monkeypatch):
    """Four updates an epoch and a ramp of two epochs: the n-th update, from 0, attacks with n/8 of radius and step."""
    used = []

    def spy(model, images, labels, epsilon, **options):
        used.append((epsilon, options["step_size"]))
        return images

    monkeypatch.setattr(robbench.training.updates, "pgd", spy)
    run(network(), recipe(attack=ADVERSARY, validation_attack=PGD(epsilon=0.5, steps=9), ramp_epochs=2.0))
    warm_up, updates = used[0], [(e, s) for e, s in used[1:] if e != 0.5]
    assert warm_up == (0.1, 0.06)
    validations = [(e, s) for e, s in used if e == 0.5]
    assert validations == [(0.5, None)] * 3
    shares = [min(1.0, n / 8) for n in range(12)]
    assert [e for e, _ in updates] == pytest.approx([0.1 * share for share in shares])
    assert [s for _, s in updates] == pytest.approx([0.06 * share for share in shares])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        (None, [0.1, 0.1, 0.1]),
        (StepLR(step=2, gamma=0.5), [0.1, 0.1, 0.05]),
        (MultiStepLR(milestones=(1,), gamma=0.1), [0.1, 0.01, 0.01]),
        (OneCycle(warm_up=0.5), [0.1 * 1 / 6.5, 0.1 * 5 / 6.5, 0.1 * 4 / 6.5]),  # updates 1, 5 and 9 of 12
    ],
)
def test_the_history_has_the_rate_of_every_epochs_first_update(schedule, rates):
    """Four updates an epoch, of which the first is the one that the record shows."""
    epochs = run(network(), recipe(schedule=schedule)).epochs
    assert [epoch.learning_rate for epoch in epochs] == pytest.approx(rates)
    assert [epoch.epoch for epoch in epochs] == [1, 2, 3]


def test_an_epochs_loss_is_the_mean_of_its_batches():
    """Of equal images, at a rate of almost nothing, every batch has the loss of one image: so has the epoch of four."""
    one = problem(1)
    images = Images(one.images.expand(27, -1, -1, -1).contiguous(), one.labels.expand(27).contiguous())
    model = network(dropout=0.0).eval()
    loss = nn.functional.cross_entropy(model(one.images.float() / 255), one.labels).item()
    (epoch,) = run(model, recipe(epochs=1, learning_rate=1e-12, statistics="running"), images).epochs
    assert epoch.loss == pytest.approx(loss, rel=1e-5)
