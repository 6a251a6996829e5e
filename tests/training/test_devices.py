"""What runs otherwise on a GPU: fused optimisers, captured attack steps, TF32; on the CPU too, as far as it has them."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from loops import ADVERSARY, network, parameters, problem, recipe, same

import robbench.training
from robbench.graphs import Loop, repeat
from robbench.timing import Stopwatch
from robbench.training import train

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
OPTIMISERS = pytest.mark.parametrize(
    "optimiser",
    [{"optimiser": "adam", "learning_rate": 0.01}, {"optimiser": "sgd", "momentum": 0.9}],
    ids=["adam", "sgd"],
)
CAPTURED = replace(ADVERSARY, steps=6)
"""An attack of enough steps that a GPU captures one."""


def run_on(device, model, spec, **options):
    """Train on the toy problem, in three updates of eight images an epoch."""
    parts = problem(24).to(device), problem(12, seed=1).to(device)
    return train(model, spec, *parts, stopwatch=Stopwatch(torch.device(device)), **options)


def astray(found, expected, start):
    """How far a network ended from another, in shares of the way that this one came; of the worst parameter."""
    return max(
        ((found[name] - value).norm() / (value - start[name].to(value)).norm()).item()
        for name, value in expected.items()
    )


@DEVICES
@OPTIMISERS
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.01), ("bf16", 0.04)])
def test_graphs_and_fused_optimisers_train_as_the_plain_path(device, precision, tolerance, optimiser, monkeypatch):
    """Captured attack steps and one kernel for all parameters end where the plain loop ends, to rounding.

    An attack of one step less, one on the weights of the start, no weight decay or no momentum ends at 0.06 or more.
    """
    spec = recipe(precision=precision, weight_decay=0.01, epochs=1, attack=CAPTURED, **optimiser)
    captures, capture = [], Loop._capture

    def spy(self, *given):
        captured = capture(self, *given)
        captures.append(1)
        return captured

    start, ended, losses = parameters(network(bias=False)), [], []
    for plain in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "_capture", spy)
            patched.setattr(robbench.training, "fused", lambda network, plain=plain: None if plain else True)
            if plain:
                patched.setattr(Loop, "__call__", lambda self, *given: repeat(*given))
            model = network(dropout=0.0, bias=False).to(device)
            losses.append(run_on(device, model, spec).history[0].loss)
            ended.append(parameters(model))
    assert bool(captures) == (device == "cuda")
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert astray(*ended, start) < tolerance


@DEVICES
@OPTIMISERS
def test_a_resumed_run_of_a_fused_optimiser_ends_as_if_it_had_not_stopped(device, optimiser, monkeypatch):
    """The optimiser takes up its state again, beside convolutions whose weights are laid out with channels last."""
    monkeypatch.setattr(robbench.training, "fused", lambda network: True)
    spec, saved = recipe(epochs=2, attack=CAPTURED, checkpoint="last", **optimiser), []
    whole, resumed = (network(seed=seed, bias=False).to(device) for seed in (0, 1))
    run_on(device, whole, spec, on_epoch=lambda state: saved.append(copy.deepcopy(state)))
    run_on(device, resumed, spec, progress=copy.deepcopy(saved[0]))
    if device == "cpu":
        assert same(parameters(resumed), parameters(whole))
    assert astray(parameters(resumed), parameters(whole), saved[0].weights) < 0.01


@OPTIMISERS
def test_what_is_resumed_lies_in_memory_as_what_was_interrupted(optimiser, monkeypatch):
    """Weights and optimiser state: the same strides and dtypes, although a checkpoint holds them contiguous."""
    made, create = [], robbench.training.new_optimiser
    monkeypatch.setattr(robbench.training, "new_optimiser", lambda *given: made.append(create(*given)) or made[-1])
    spec, saved = recipe(epochs=2, **optimiser), []
    first = network()
    run_on("cpu", first, replace(spec, epochs=1), on_epoch=lambda state: saved.append(copy.deepcopy(state)))
    interrupted = made[0]
    made.clear()
    second = network(seed=1)
    layouts = []

    def look(epoch, update, updates):
        if update == 1:
            layouts.extend([layout(first, interrupted), layout(second, made[0])])

    run_on("cpu", second, spec, progress=saved[0], on_update=look)
    assert all(tensor.is_contiguous() for part in (saved[0].weights, saved[0].optimiser) for tensor in part.values())
    assert layouts[0] == layouts[1]
    assert any(strides[1] == 1 and shape[1] > 1 for (shape, strides, _) in layouts[1] if len(shape) == 4)


def layout(model, optimiser):
    """Shape, strides and dtype of a network's tensors and of its optimiser's."""
    states = (state for values in optimiser.state.values() for state in values.values() if state is not None)
    return [(tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in (*model.state_dict().values(), *states)]
