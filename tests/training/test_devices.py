"""What runs otherwise on a GPU: fused optimisers, captured attack steps, TF32; on the CPU too, as far as it has them."""

from __future__ import annotations

import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from captures import Captures
from loops import ADVERSARY, finish, network, parameters, problem, recipe, same, trainer

import robbench.machine.graphs
import robbench.machine.timing
import robbench.training.loop
import robbench.training.optimisers
from robbench.machine.graphs import GraphedLoop, repeat
from robbench.machine.timing import Stopwatch
from robbench.training.updates import attacked

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
OPTIMISERS = pytest.mark.parametrize(
    "optimiser",
    [{"optimiser": "adam", "learning_rate": 0.01}, {"optimiser": "sgd", "momentum": 0.9}],
    ids=["adam", "sgd"],
)
CAPTURED = replace(ADVERSARY, steps=6)
"""An attack of enough steps that a GPU captures one."""


def on(device, model, spec, **options):
    """A trainer on the toy problem, in three updates of eight images an epoch."""
    return trainer(model, spec, problem(24).to(device), problem(12, seed=1).to(device), **options)


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
    captures, capture = [], robbench.machine.graphs._CudaGraphs.__call__

    def spy(self, *given):
        captured = capture(self, *given)
        captures.append(1)
        return captured

    start, ended, losses = parameters(network(bias=False)), [], []
    for plain in (False, True):
        with monkeypatch.context() as patched:
            patched.setattr(robbench.machine.graphs._CudaGraphs, "__call__", spy)
            patched.setattr(robbench.training.optimisers, "fused", lambda network, plain=plain: None if plain else True)
            if plain:
                patched.setattr(GraphedLoop, "__call__", lambda self, *given: repeat(*given))
            model = network(dropout=0.0, bias=False).to(device)
            losses.append(finish(on(device, model, spec)).epochs[0].loss)
            ended.append(parameters(model))
    assert bool(captures) == (device == "cuda")
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert astray(*ended, start) < tolerance


@DEVICES
@OPTIMISERS
def test_a_resumed_run_of_a_fused_optimiser_ends_as_if_it_had_not_stopped(device, optimiser, monkeypatch):
    """It takes up its state beside convolutions in channels last, in the same layout, although the state is contiguous."""
    monkeypatch.setattr(robbench.training.optimisers, "fused", lambda network: True)
    spec, saved = recipe(epochs=2, attack=CAPTURED, kept_epoch="last", **optimiser), []
    whole, resumed = (on(device, network(seed=seed, bias=False).to(device), spec) for seed in (0, 1))
    finish(whole, saved)
    assert all(tensor.is_contiguous() for part in ("weights", "optimiser") for tensor in saved[0][part].values())
    resumed.load_state_dict(saved[0])
    assert layout(resumed) == layout(whole)
    assert any(strides[1] == 1 and shape[1] > 1 for (shape, strides, _) in layout(resumed) if len(shape) == 4)
    finish(resumed)
    if device == "cpu":
        assert same(parameters(resumed._network), parameters(whole._network))
    assert astray(parameters(resumed._network), parameters(whole._network), saved[0]["weights"]) < 0.01


def layout(made):
    """Shape, strides and dtype of the tensors of a trainer's network and optimiser."""
    states = (state for values in made._optimiser.state.values() for state in values.values() if state is not None)
    tensors = (*made._network.state_dict().values(), *states)
    return [(tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors]


def test_every_pass_of_training_may_use_tensor_cores(monkeypatch):
    """Warm-up, attack, update and validation: so that what the warm-up sets up is what training runs."""
    allowed, passes = [], []

    @contextmanager
    def noting():
        allowed.append(1)
        yield
        allowed.pop()

    monkeypatch.setattr(robbench.training.loop, "tensor_cores", noting)
    model = network()
    model.register_forward_pre_hook(lambda layer, images: passes.append(len(allowed)))
    finish(on("cpu", model, recipe(epochs=1, attack=ADVERSARY)))
    assert passes == [1] * len(passes)
    assert len(passes) == 4 * (ADVERSARY.steps + 1) + ADVERSARY.steps + 2
    assert not allowed


def test_captures_count_as_warm_up(monkeypatch):
    """In training and in validation; and a network trains as it does without graphs."""
    now = [0.0]
    monkeypatch.setattr(robbench.machine.timing, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    spec, stopwatch, slow = recipe(epochs=2, attack=CAPTURED), Stopwatch(torch.device("cpu")), Captures()
    models = [network(dropout=0.0, bias=False) for _ in range(2)]
    made, plain = on("cpu", models[0], spec, stopwatch=stopwatch), on("cpu", models[1], spec)

    def capture(*given):
        now[0] += 10
        return slow(*given)

    made._loop._capture = capture
    epochs = finish(made).epochs
    finish(plain)
    assert (slow.captured, stopwatch.seconds.warm_up, stopwatch.seconds.total) == (2, 20, 20)
    assert slow.replayed > 2 * CAPTURED.steps
    assert [(epoch.seconds, epoch.validation_seconds) for epoch in epochs] == [(0, 0)] * 2
    assert same(parameters(models[0]), parameters(models[1]))


@DEVICES
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_attack_lets_go_of_every_iterate(device, precision):
    """Autocast keeps the cast of a tensor, and the tensor, for as long as its context lasts; an attack may be long."""
    iterates, living = [], []

    def note(layer, given):
        living.append(sum(iterate() is not None for iterate in iterates))
        iterates.append(weakref.ref(given[0]))

    model, images = network().to(device), problem(8).to(device)
    model.register_forward_pre_hook(note)
    attacked(model, replace(ADVERSARY, steps=6), precision, images.images.float() / 255, images.labels, None)
    assert len(iterates) == 6
    assert set(living) == {0}
