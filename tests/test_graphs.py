"""Loops: so many steps, no more, and on a CUDA device bit for bit what the steps do one by one."""

from __future__ import annotations

import gc

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from robbench.attacks import pgd
from robbench.estimation import estimate_pstar
from robbench.graphs import Loop
from robbench.spec import PGD

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


@given(st.integers(0, 30))
def test_a_loop_takes_so_many_steps_and_leaves_what_it_was_given(times):
    """On the CPU: the state after exactly ``times`` steps, from tensors that are as they were."""
    state, constants = problem(CPU)
    before = [tensor.clone() for tensor in (*state, *constants)]
    calls = []

    def step(state, constants):
        calls.append(1)
        return affine(state, constants)

    value, count = Loop(CPU)(step, state, constants, times)
    assert len(calls) == times
    assert count.tolist() == [times] * 5
    assert torch.equal(value, repeated(state, constants, times)[0])
    assert all(torch.equal(old, new) for old, new in zip(before, (*state, *constants), strict=True))


def test_a_loop_takes_other_shapes_and_steps_on_the_cpu():
    """Nothing is kept there between calls."""
    loop = Loop(CPU)
    for count in (5, 3, 5):
        state, constants = problem(CPU, count)
        assert torch.equal(loop(affine, state, constants, 4)[0], repeated(state, constants, 4)[0])
    assert torch.equal(loop(lambda state, _: (state[0] + 1,), (torch.zeros(2),), (), 4)[0], torch.full((2,), 4.0))
    assert loop._graphs == {}


def test_an_attack_in_a_loop_is_the_attack():
    """On the CPU a loop that lives longer changes nothing."""
    model, images, labels = small_cnn("cpu")
    loop = Loop(CPU)
    for epsilon in (0.05, 0.2):
        alone = pgd(model, images, labels, epsilon, steps=5, random_start=False)
        assert torch.equal(pgd(model, images, labels, epsilon, steps=5, random_start=False, loop=loop), alone)


# --- CUDA -------------------------------------------------------------------------------------------------------------


@needs_cuda
@pytest.mark.parametrize("times", [1, 3, 4, 5, 40])
def test_replayed_steps_are_the_steps_bit_for_bit(times):
    """Captured or not, in the first call or a later one, with other values in the same shapes."""
    loop = Loop(torch.device("cuda"))
    for call in range(3):
        state, constants = problem("cuda")
        state = (state[0] + call, state[1])
        before = [tensor.clone() for tensor in (*state, *constants)]
        value, count = loop(affine, state, constants, times)
        assert torch.equal(value, repeated(state, constants, times)[0])
        assert count.tolist() == [times] * 5
        assert all(torch.equal(old, new) for old, new in zip(before, (*state, *constants), strict=True))
    assert len(loop._graphs) == (times > 3)


@needs_cuda
def test_a_result_is_not_overwritten_by_the_next_call():
    """What a loop returned is the caller's, not the graph's."""
    loop = Loop(torch.device("cuda"))
    state, constants = problem("cuda")
    (first, _), expected = loop(affine, state, constants, 8), repeated(state, constants, 8)[0]
    loop(affine, (state[0] + 5, state[1]), constants, 8)
    assert torch.equal(first, expected)


@needs_cuda
def test_a_new_shape_type_or_layout_has_a_graph_of_its_own():
    """And the old one is still there."""
    loop = Loop(torch.device("cuda"))
    for count, graphs in ((5, 1), (3, 2), (5, 2)):
        state, constants = problem("cuda", count)
        assert torch.equal(loop(affine, state, constants, 6)[0], repeated(state, constants, 6)[0])
        assert len(loop._graphs) == graphs
    (value, number), constants = problem("cuda", 5)
    state, constants = (value.double(), number), tuple(tensor.double() for tensor in constants)
    assert torch.equal(loop(affine, state, constants, 6)[0], repeated(state, constants, 6)[0])
    assert len(loop._graphs) == 3


@needs_cuda
def test_weights_changed_in_place_between_calls_are_seen():
    """As an optimiser or a transfer changes them: the replayed attack is that on the new weights."""
    model, images, labels = small_cnn("cuda")
    loop, found = Loop(torch.device("cuda")), []
    for _ in range(3):
        alone = pgd(model, images, labels, 0.2, steps=8, random_start=False)
        found.append(pgd(model, images, labels, 0.2, steps=8, random_start=False, loop=loop))
        assert torch.equal(found[-1], alone)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.flip(0))
    assert len(loop._graphs) == 1
    assert (found[0] != found[1]).float().mean() > 0.1


@needs_cuda
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_with_a_loop_equals_pgd_without(random_start):
    """For a radius of all images and one per image, and a random start from the same seed."""
    model, images, labels = small_cnn("cuda")
    loop = Loop(torch.device("cuda"))
    for epsilon in (0.1, torch.linspace(0, 0.3, 24), 0.3):
        alone, looped = (
            pgd(
                model,
                images,
                labels,
                epsilon,
                steps=10,
                random_start=random_start,
                generator=torch.Generator("cuda").manual_seed(1),
                loop=given,
            )
            for given in (None, loop)
        )
        assert torch.equal(alone, looped)
        assert ((looped - images).abs().flatten(1).amax(1) <= torch.as_tensor(epsilon).to("cuda") + 1e-6).all()


@needs_cuda
@pytest.mark.parametrize("search", ["reference", "fast"])
def test_pstar_on_a_gpu_is_that_on_the_cpu(search):
    """In float64, looking at the results every fourth step only, the same p* image by image."""
    model, images, labels = small_cnn("cpu")
    model, images = model.double(), images.double()
    grid, attack = [0.005 * place for place in range(61)], PGD(steps=10, random_start=False)
    slow = estimate_pstar(model, images, labels, grid, attack, search=search, batch_size=7)
    quick = estimate_pstar(model.cuda(), images.cuda(), labels.cuda(), grid, attack, search=search, batch_size=7)
    assert quick.pstar.tolist() == slow.pstar.tolist()
    assert len(set(slow.pstar.tolist())) > 4


@needs_cuda
def test_graphs_are_freed_with_their_loop():
    """After the loop is gone and the cache emptied, as much memory is allocated as before."""
    state, constants = problem("cuda", 1_000_000)
    Loop(torch.device("cuda"))(affine, state, constants, 5)
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    loop = Loop(torch.device("cuda"))
    loop(affine, state, constants, 5)
    assert torch.cuda.memory_allocated() > before
    del loop
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() == before
