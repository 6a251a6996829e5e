"""Loops: so many steps, no more, and on a CUDA device bit for bit what the steps do one by one."""

from __future__ import annotations

import weakref
from contextlib import nullcontext

import pytest
import torch
from captures import Captures
from torch import nn

from robbench.attacks import cross_entropy, dice, pgd
from robbench.machine.graphs import GraphedLoop
from robbench.machine.precision import tensor_cores

CPU = torch.device("cpu")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def affine(state, constants):
    """From (x, n) to (a·x + b, n + 1)."""
    (value, count), (factor, shift) = state, constants
    return factor * value + shift, count + 1


def problem(device, count=5):
    """The state and the constants of ``affine``."""
    generator = torch.Generator().manual_seed(count)
    value, factor, shift = (torch.rand(count, generator=generator).to(device) for _ in range(3))
    return (value, torch.zeros(count, dtype=torch.int64, device=device)), (factor, shift)


def repeated(state, constants, times):
    """The same steps, written out."""
    for _ in range(times):
        state = affine(state, constants)
    return state


def small_cnn(device):
    """A convolution with a smooth activation and a linear layer, with images and labels."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(256, 3)).eval()
    images = torch.rand(24, 1, 8, 8, generator=generator)
    labels = model(images).argmax(dim=1)  # on the CPU, so that they are the same on every device
    return model.to(device), images.to(device), labels.to(device)


@pytest.mark.parametrize("times", [1, 3, 4, 9])
def test_a_shape_is_captured_when_it_comes_again_and_replayed_from_then_on(times):
    """Where there are steps enough; the results are those of the steps one by one, and what was given stays."""
    capture, notes = Captures(), []
    loop = GraphedLoop(CPU, notes, capture)
    for call in range(4):
        for count in (5, 3):
            state, constants = problem(CPU, count)
            state = state[0] + call, state[1]
            before = [tensor.clone() for tensor in (*state, *constants)]
            value, number = loop(affine, state, constants, times)
            assert torch.equal(value, repeated(state, constants, times)[0])
            assert number.tolist() == [times] * count
            assert all(torch.equal(old, new) for old, new in zip(before, (*state, *constants), strict=True))
    captures = times >= 4
    assert (capture.captured, capture.replayed) == (2 * captures, 2 * (1 + 3 * times) * captures)
    assert notes == []


def test_the_next_call_does_not_overwrite_a_result():
    """Although a replay writes into the tensors of the graph."""
    loop, state, constants = GraphedLoop(CPU, None, Captures()), *problem(CPU)
    results = [loop(affine, (state[0] + call, state[1]), constants, 6)[0] for call in range(4)]
    for call, result in enumerate(results):
        assert torch.equal(result, repeated((state[0] + call, state[1]), constants, 6)[0])


def test_shapes_that_come_once_cost_no_capture():
    """As the last batches of a search, each smaller than the one before."""
    capture = Captures()
    loop = GraphedLoop(CPU, None, capture)
    for count in range(30, 1, -1):
        loop(affine, *problem(CPU, count), 40)
    assert capture.captured == 0


def call_thrice(loop, count=5):
    """Three calls of as many steps, each checked."""
    for _ in range(3):
        state, constants = problem(CPU, count)
        assert torch.equal(loop(affine, state, constants, 6)[0], repeated(state, constants, 6)[0])


def test_a_step_that_cannot_be_captured_runs_as_it_is_with_one_note():
    """Nothing is tried again, for no shape, and the note has the first line of the error."""
    capture, notes = Captures(RuntimeError("called a synchronizing CUDA operation\nC++ stack")), ["earlier"]
    loop = GraphedLoop(CPU, notes, capture)
    for count in (5, 3):
        call_thrice(loop, count)
    assert (capture.captured, capture.replayed) == (0, 0)
    told = "the attack ran step by step, without CUDA graphs: one could not be captured (called a synchronizing CUDA operation)"
    assert notes == ["earlier", told]
    call_thrice(GraphedLoop(CPU, notes, Captures(RuntimeError("called a synchronizing CUDA operation"))))
    assert notes == ["earlier", told]


def test_out_of_memory_in_a_capture_frees_all_graphs_and_goes_on_without():
    """The graph of a smaller shape, captured before, is gone too, and with it the memory of its tensors."""
    error = RuntimeError("CUDA error: operation failed due to a previous error during capture")
    error.__context__ = torch.cuda.OutOfMemoryError("CUDA out of memory")
    capture, notes = Captures(None, error), []
    loop = GraphedLoop(CPU, notes, capture)
    call_thrice(loop, 3)
    held = weakref.ref(loop._graphs[next(iter(loop._graphs))].state[0])
    call_thrice(loop)
    call_thrice(loop, 3)
    assert capture.captured == 1
    assert (loop._graphs, held()) == ({}, None)
    assert notes == ["the attack ran step by step, without CUDA graphs: out of memory"]


@pytest.mark.parametrize(("missed", "trusted"), [(0, True), (2, True), (3, False), (5, False)])
def test_a_graph_is_trusted_if_its_first_replay_does_most_of_what_the_step_does(missed, trusted):
    """Rounding may change the sign of some elements; an empty graph, which torch only warns of, changes none."""
    capture, notes = Captures(), []
    capture.missed = missed
    loop = GraphedLoop(CPU, notes, capture)
    for _ in range(3):
        value, _ = loop(affine, *problem(CPU), 6)
        assert trusted or torch.equal(value, repeated(*problem(CPU), 6)[0])
    assert (capture.captured, len(loop._graphs), bool(notes)) == (1, trusted, not trusted)
    assert all("(its first replay did not do what the step does)" in note for note in notes)


def test_a_step_that_changes_nothing_or_makes_nan_can_be_replayed():
    """A graph that does the same is no empty one."""
    for factor in (torch.ones(5), torch.full((5,), torch.nan)):
        loop = GraphedLoop(CPU, None, Captures())
        for _ in range(2):
            loop(lambda state, constants: (constants[0] * state[0],), (torch.ones(5),), (factor,), 6)
        assert len(loop._graphs) == 1


def linear(layer, sign=1):
    """A step of a layer's."""
    if sign == 1:
        return lambda state, constants: (layer(state[0]) + constants[0],)
    return lambda state, constants: (layer(state[0]) - constants[0],)


LAYERS = [nn.Linear(5, 5), nn.Linear(5, 5)]
SWITCHED = {
    "step": (linear(LAYERS[0], -1), nullcontext),
    "network": (linear(LAYERS[1]), nullcontext),
    "autocast": (linear(LAYERS[0]), lambda: torch.autocast("cpu", torch.bfloat16)),
    "precision": (linear(LAYERS[0]), lambda: tensor_cores(torch.get_float32_matmul_precision() == "highest")),
}


@pytest.mark.parametrize("what", SWITCHED)
def test_a_graph_is_not_replayed_for_calls_of_another_kind(what):
    """The shapes are the same, but a graph holds the kernels that were captured."""
    one, (other, context) = linear(LAYERS[0]), SWITCHED[what]
    capture, given = Captures(), ((torch.ones(5, 5),), (torch.ones(5, 5),))
    loop = GraphedLoop(CPU, None, capture)
    with torch.no_grad():
        for _ in range(2):
            loop(one, *given, 4)
        with context():
            for captured in (1, 2, 2):
                expected = given[0]
                for _ in range(4):
                    expected = other(expected, given[1])
                assert torch.equal(loop(other, *given, 4)[0], expected[0].float())
                assert capture.captured == captured
        loop(one, *given, 4)
    assert (capture.captured, len(loop._graphs)) == (2, 2)


def test_modes_and_the_type_of_autocast_tell_calls_apart():
    """Of every module of a network, however deep."""
    network = nn.Sequential(nn.Sequential(nn.Linear(5, 5), nn.Dropout()))
    step, given, capture = linear(network), ((torch.ones(5, 5),), (torch.ones(5, 5),)), Captures()
    loop = GraphedLoop(CPU, None, capture)
    for training, kind in ((False, torch.bfloat16), (True, torch.bfloat16), (True, torch.float16)):
        network[0][1].train(training)
        with torch.no_grad(), torch.autocast("cpu", kind):
            loop(step, *given, 4)
    assert (capture.captured, len(loop._seen)) == (0, 3)


def test_the_losses_of_attacks_tell_calls_apart():
    """Two attacks of one network with the same shapes: each climbs its own loss, and has a graph of its own."""
    model, images, labels = small_cnn("cpu")
    loop = GraphedLoop(CPU, None, Captures())
    for _ in range(3):
        for loss in (cross_entropy, dice):
            alone, looped = (
                pgd(model, images, labels, 0.1, steps=5, random_start=False, loop=given, loss=loss)
                for given in (None, loop)
            )
            assert torch.equal(alone, looped)
    assert len(loop._graphs) == 2


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_with_a_loop_is_pgd_without_bit_for_bit(random_start, device):
    """In every call, for one radius or one per image, and with weights that changed in place since the last call."""
    model, images, labels = small_cnn(device)
    loop, found = GraphedLoop(torch.device(device), None, Captures() if device == "cpu" else None), []
    for epsilon in (0.1, torch.linspace(0, 0.3, 24)) * 3:
        alone, looped = (
            pgd(
                model,
                images,
                labels,
                epsilon,
                steps=10,
                random_start=random_start,
                generator=torch.Generator(device).manual_seed(1),
                loop=given,
            )
            for given in (None, loop)
        )
        assert torch.equal(alone, looped)
        found.append(looped)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.roll(1, 0))
    assert len(loop._graphs) == 2
    assert (found[2] != found[4]).float().mean() > 0.1
