"""What runs otherwise on a GPU: fused optimisers, captured attack steps, TF32; on the CPU too, as far as it has them."""

from __future__ import annotations

import copy
import weakref
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from loops import ADVERSARY, network, parameters, problem, recipe, same
from torch import nn

import robbench.machine.graphs
import robbench.training.loop
import robbench.training.optimisers
from robbench.estimation.estimators import estimate_pstar
from robbench.machine.graphs import GraphedLoop, repeat
from robbench.machine.timing import Stopwatch
from robbench.spec import PGD
from robbench.training.loop import train
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
            losses.append(run_on(device, model, spec).history[0].loss)
            ended.append(parameters(model))
    assert bool(captures) == (device == "cuda")
    assert losses[0] == pytest.approx(losses[1], rel=tolerance)
    assert astray(*ended, start) < tolerance


@pytest.mark.parametrize(("on_gpu", "chosen"), [(True, True), (False, None)])
def test_optimisers_are_fused_where_the_parameters_lie_on_a_gpu(on_gpu, chosen):
    """Elsewhere torch chooses."""

    class Placed(nn.Module):
        def parameters(self, recurse=True):
            """One, that says where it lies."""
            yield SimpleNamespace(is_cuda=on_gpu)

    assert robbench.training.optimisers.fused(Placed()) is chosen


@DEVICES
@OPTIMISERS
def test_a_resumed_run_of_a_fused_optimiser_ends_as_if_it_had_not_stopped(device, optimiser, monkeypatch):
    """The optimiser takes up its state again, beside convolutions whose weights are laid out with channels last."""
    monkeypatch.setattr(robbench.training.optimisers, "fused", lambda network: True)
    spec, saved = recipe(epochs=2, attack=CAPTURED, kept_epoch="last", **optimiser), []
    whole, resumed = (network(seed=seed, bias=False).to(device) for seed in (0, 1))
    run_on(device, whole, spec, on_epoch=lambda state: saved.append(copy.deepcopy(state)))
    run_on(device, resumed, spec, progress=copy.deepcopy(saved[0]))
    if device == "cpu":
        assert same(parameters(resumed), parameters(whole))
    assert astray(parameters(resumed), parameters(whole), saved[0].weights) < 0.01


@OPTIMISERS
def test_what_is_resumed_lies_in_memory_as_what_was_interrupted(optimiser, monkeypatch):
    """Weights and optimiser state: the same strides and dtypes, although a checkpoint holds them contiguous."""
    made, create = [], robbench.training.loop.new_optimiser
    monkeypatch.setattr(robbench.training.loop, "new_optimiser", lambda *given: made.append(create(*given)) or made[-1])
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


class Noting(nn.Module):
    """Calls ``note`` in every forward pass; a copy of it calls the same one."""

    def __init__(self, model, note):
        super().__init__()
        self.model, self.note = model, note

    def forward(self, images):
        """Logits of the model inside."""
        self.note(images)
        return self.model(images)


# --- precision --------------------------------------------------------------------------------------------------------


def test_every_pass_of_training_may_use_tensor_cores(monkeypatch):
    """Warm-up, attack, update and validation: so that what the warm-up sets up is what training runs."""
    allowed, passes = [], []

    @contextmanager
    def noting():
        allowed.append(1)
        yield
        allowed.pop()

    monkeypatch.setattr(robbench.training.loop, "tensor_cores", noting)
    spec = recipe(epochs=1, attack=ADVERSARY)
    run_on("cpu", Noting(network(), lambda images: passes.append(len(allowed))), spec)
    assert passes == [1] * len(passes)
    assert len(passes) == 4 * (ADVERSARY.steps + 1) + ADVERSARY.steps + 2
    assert not allowed


@needs_cuda
def test_the_warm_up_captures_what_training_captures(monkeypatch):
    """One graph of the copy in the warm-up and one of the network in training, another for validation's batches."""
    captures, capture, begun = [], robbench.machine.graphs._CudaGraphs.__call__, []
    monkeypatch.setattr(
        robbench.machine.graphs._CudaGraphs,
        "__call__",
        lambda self, *given: captures.append(bool(begun)) or capture(self, *given),
    )
    spec = recipe(epochs=2, attack=CAPTURED)
    run_on("cuda", network().to("cuda"), spec, on_update=lambda *numbers: begun.append(numbers))
    assert captures == [False, True, True]


@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0),
    reason="needs a CUDA device that multiplies in TF32",
)
def test_products_are_made_in_tf32_in_training_and_not_for_pstar():
    """Seen in a product: TF32 has no number between 1 and 1 + 2⁻¹⁰. The switches come back afterwards."""
    factor, one = torch.full((512, 512), 1 + 2**-12, device="cuda"), torch.eye(512, device="cuda")
    products = []
    model = Noting(network().to("cuda"), lambda images: products.append((factor @ one).amax()))
    before = (factor @ one).amax().item()
    run_on("cuda", model, recipe(epochs=1, attack=ADVERSARY))
    assert {product.item() for product in products} == {1.0}
    products.clear()
    tested = problem(12).to("cuda")
    estimate_pstar(model, tested.images, tested.labels, [0.0, 0.1, 0.2], PGD(steps=2, random_start=False))
    assert {product.item() for product in products} == {1 + 2**-12}
    assert (factor @ one).amax().item() == before


@DEVICES
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_an_attack_lets_go_of_every_iterate(device, precision):
    """Autocast keeps the cast of a tensor, and the tensor, for as long as its context lasts; an attack may be long."""
    iterates, living = [], []

    def note(images):
        living.append(sum(iterate() is not None for iterate in iterates))
        iterates.append(weakref.ref(images))

    model, images = Noting(network(), note).to(device), problem(8).to(device)
    attacked(model, replace(ADVERSARY, steps=6), precision, images.images.float() / 255, images.labels, None)
    assert len(iterates) == 6
    assert set(living) == {0}


@DEVICES
def test_what_is_kept_of_an_epoch_is_what_there_was(device):
    """Copies of their own on the CPU, contiguous, of weights and optimiser state, when the epoch's call-back gets them."""
    model, found = network(bias=False).to(device), []

    def compare(state):
        found.append(
            [
                (kept.device.type, kept.is_contiguous(), kept.dtype, torch.equal(kept, tensor.cpu()))
                for kept, tensor in zip(state.weights.values(), model.state_dict().values(), strict=True)
            ]
        )
        momenta = [tensor for name, tensor in state.optimiser.items() if name.endswith("momentum_buffer")]
        assert all(tensor.device.type == "cpu" and tensor.is_contiguous() and tensor.any() for tensor in momenta)
        assert len(momenta) == len(parameters(model))

    run_on(device, model, recipe(momentum=0.9, epochs=2), on_epoch=compare)
    expected = [("cpu", True, tensor.dtype, True) for tensor in model.state_dict().values()]
    assert found == [expected] * 2
