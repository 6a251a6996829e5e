"""Training goes on only from what training has left: anything else that a checkpoint may hold is refused."""

from __future__ import annotations

import copy
import itertools
import re
from functools import reduce

import msgspec
import pytest
import torch
from loops import network, problem, recipe, run
from networks import Masked, linear_case
from torch import nn

from robbench.estimation.estimators import estimate_pstar
from robbench.estimation.fixed_radii import FinalTest
from robbench.spec import PGD, EpsilonGrid
from robbench.stages.resuming import check_fits, check_search_fits

ADAM = recipe(optimiser="adam", learning_rate=0.01, epochs=4)
MOMENTUM = recipe(momentum=0.9, epochs=4)
PLAIN = recipe(epochs=4)
NUMBERS = itertools.count()


class Unused(nn.Sequential):
    """With a layer that no image passes, whose parameters no gradient reaches, and which no seed makes the same again."""

    def __init__(self, seed=0):
        super().__init__(*network(seed), nn.Linear(2, 2))
        nn.init.uniform_(self[-1].weight, generator=torch.Generator().manual_seed(next(NUMBERS)))

    def forward(self, images):
        """Logits of the layers in front."""
        for layer in [*self][:-1]:
            images = layer(images)
        return images


def states(model, spec, **options):
    """The state after every epoch."""
    found = []
    run(model, spec, problem(27), on_epoch=lambda state: found.append(copy.deepcopy(state)), **options)
    return found


@pytest.mark.parametrize("spec", [ADAM, MOMENTUM, PLAIN], ids=["adam", "momentum", "plain"])
def test_what_training_left_is_gone_on_with(spec):
    """After every epoch, by each optimiser; also with a layer that is not used, and so has no state, or with a causal mask."""
    for make in (network, Unused, lambda: nn.Sequential(Masked(6), *network())):
        for state in states(make(), spec):
            check_fits(state, make(), spec)


def test_groups_of_parameters_are_numbered_as_the_optimiser_does():
    """The last layer first, and the first one frozen."""

    def groups(model):
        model[0].requires_grad_(False)
        return [{"params": [*model[6].parameters()]}, {"params": [*model[4].parameters(), *model[1].parameters()]}]

    trained, fresh = network(), network()
    (state, *_) = states(trained, ADAM, groups=groups(trained))
    check_fits(state, fresh, ADAM, groups(fresh))
    with pytest.raises(ValueError, match=r"^optimiser: expected "):
        check_fits(state, fresh, ADAM)


def judged(state, *correct):
    """The state with a history of as many right validation images."""
    counts = [msgspec.structs.replace(state.history[0].validation, correct=number) for number in correct]
    state.history = [
        msgspec.structs.replace(epoch, validation=count) for epoch, count in zip(state.history, counts, strict=True)
    ]
    state.best = state.weights
    return state


def part(name, **changes):
    """A change of one part of a state: tensors by name, with ``__`` for a dot; None takes one out."""

    def change(state):
        tensors = getattr(state, name) | {key.strip("_").replace("__", "."): value for key, value in changes.items()}
        setattr(state, name, {key: value for key, value in tensors.items() if value is not None})

    return change


def half(state):
    """All of its state of the optimiser but Adam's second moments."""
    state.optimiser = {name: tensor for name, tensor in state.optimiser.items() if not name.endswith("_sq")}


NAN = torch.full((4,), float("nan"))


@pytest.mark.parametrize(
    ("spec", "change", "message"),
    [
        (ADAM, part("weights", _0__bias=torch.zeros(3)), "weights: expected float32 (4,) as 0.bias, got float32 (3,)"),
        (ADAM, part("weights", _0__bias=None), "weights: expected float32 (4,) as 0.bias, got none"),
        (ADAM, part("weights", _0__bias=torch.zeros(4).long()), "weights: expected float32 (4,) as 0.bias, got int64 (4,)"),
        (ADAM, part("weights", _9__bias=torch.zeros(4)), "weights: expected none as 9.bias, got float32 (4,)"),
        (ADAM, part("weights", _0__bias=NAN), "weights: 0.bias is not finite"),
        (ADAM, part("best", _0__bias=NAN), "best: 0.bias is not finite"),
        (ADAM, part("best", _0__bias=None), "best: expected float32 (4,) as 0.bias, got none"),
        (ADAM, lambda state: state.optimiser.clear(), "optimiser: expected float32 (4, 1, 3, 3) as 0.exp_avg, got none"),
        (MOMENTUM, lambda state: state.optimiser.clear(), "optimiser: expected float32 (4, 1, 3, 3) as 0.momentum_buffer"),
        (ADAM, half, "optimiser: expected float32 (4, 1, 3, 3) as 0.exp_avg_sq, got none"),
        (ADAM, part("optimiser", _1__step=None), "optimiser: expected float32 () as 1.step, got none"),
        (ADAM, part("optimiser", _1__step=torch.ones(4)), "optimiser: expected float32 () as 1.step, got float32 (4,)"),
        (ADAM, part("optimiser", _1__exp_avg=torch.zeros(())), "optimiser: expected float32 (4,) as 1.exp_avg, got float32 ()"),
        (ADAM, part("optimiser", _99__exp_avg=torch.zeros(4)), "optimiser: expected none as 99.exp_avg, got float32 (4,)"),
        (PLAIN, part("optimiser", _0__momentum_buffer=torch.zeros(4)), "optimiser: expected none as 0.momentum_buffer"),
        (ADAM, lambda state: state.history.clear(), "history: expected epochs from 1 to at most 4, got []"),
        (ADAM, lambda state: state.history.reverse(), "history: expected epochs from 1 to at most 4, got [2, 1]"),
        (ADAM, lambda state: state.history.extend(state.history), "history: expected epochs from 1 to at most 4, got [1, 2, 1, 2]"),
        (ADAM, lambda state: judged(state, 9, 8), "best: expected the weights of epoch 1, got none"),
    ],
)  # fmt: skip
def test_anything_else_is_refused(spec, change, message):
    """Tensors that are missing, too many, of another shape or dtype, or not finite, and epochs that do not follow."""
    before = network()
    state = judged(states(network(), spec)[1], 8, 9)
    check_fits(state, before, spec)
    change(state)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_fits(state, before, spec)


@pytest.mark.parametrize("name", ["0.mask", "2.running_mean", "1.weight"])
def test_infinities_where_a_network_begins_with_none_are_refused(name):
    """In a mask that has others by design, in statistics, and in a parameter."""
    before = nn.Sequential(Masked(6), *network())
    (state, *_) = states(copy.deepcopy(before), PLAIN)
    state.weights[name].view(-1)[0] = -torch.inf
    with pytest.raises(ValueError, match=f"^weights: {name} is not finite"):
        check_fits(state, before, PLAIN)


def test_more_epochs_than_the_recipe_has_are_refused():
    """They would be of another recipe."""
    state = states(network(), ADAM)[3]
    with pytest.raises(ValueError, match=r"^history: expected epochs from 1 to at most 3, got \[1, 2, 3, 4\]"):
        check_fits(state, network(), recipe(optimiser="adam", learning_rate=0.01, epochs=3))


GRID = EpsilonGrid(stop=0.1, step=0.01).values


def put(name, value):
    """A change of the first place of a tensor; ``name`` is its path from the search."""

    def change(search, testing):
        reduce(getattr, name.split("."), search)[0] = value

    return change


def put_all(name, make):
    """A change of a whole tensor; ``name`` is its path from the search."""
    *inner, last = name.split(".")

    def change(search, testing):
        owner = reduce(getattr, inner, search)
        setattr(owner, last, make(getattr(owner, last)))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *((put_all(name, make), f"{name}: expected 12 places from")
          for name in ("first", "last", "pstar")
          for make in (lambda tensor: tensor[:6], lambda tensor: tensor.repeat(2), torch.Tensor.double)),
        (put("first", 12), "first: expected 12 places from 0 to 11"),
        (put("first", -1), "first: expected 12 places from 0 to 11"),
        (put("last", 11), "last: expected 12 places from -1 to 10"),
        (put("pstar", 12), "pstar: expected 12 places from -1 to 11"),
        (put_all("adversarials", lambda tensor: tensor[1:]), "adversarials: expected (12, 1, 6, 6), got (11, 1, 6, 6)"),
        (put("descent.waiting", 12), "waiting: expected 8 places from 0 to 11"),
        (put("descent.waiting", -1), "waiting: expected 8 places from 0 to 11"),
        (put("descent.slots.index", 12), "slots: expected 4 places from -1 to 11"),
        *((put_all(f"descent.slots.{name}", lambda tensor: tensor[..., 1:]),
           "slots: expected images (4, 1, 6, 6), got (4, 1, 6, 5)")
          for name in ("adversarial", "best_image", "originals")),
        (lambda search, testing: testing.fooled.extend([1, 2]), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: testing.fooled.append(-1), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: testing.fooled.append(13), "testing: expected at most 2 attacks on 12 images"),
        (lambda search, testing: setattr(testing, "start", 13), "testing: expected at most 2 attacks on 12 images"),
    ],
)  # fmt: skip
def test_a_search_of_other_images_grids_or_attacks_is_refused(change, message):
    """More of them, or fewer, or places that there are none of."""
    model, images, labels, _ = linear_case(1)
    found = []
    estimate_pstar(
        model,
        images,
        labels,
        GRID,
        PGD(steps=3, random_start=False),
        search="fast",
        batch_size=4,
        keep_adversarials=True,
        on_progress=lambda state: found.append(copy.deepcopy(state)),
    )
    for state in found:
        check_search_fits(state, FinalTest([3], 8), images, len(GRID), 2)
    search, testing = found[0], FinalTest([3], 8)
    change(search, testing)
    with pytest.raises(ValueError, match="^" + re.escape(message)):
        check_search_fits(search, testing, images, len(GRID), 2)
