"""The fast search of a convolutional network: proven counterexamples, results that are each image's own, interruptions."""

from __future__ import annotations

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import Counting
from searches import BOX, GRID, fast, oracle, results, run_descent
from torch import nn

import robbench.estimation.shrinking_ball
from robbench.attacks import BALL_TOLERANCE
from robbench.data import draw
from robbench.estimation.estimators import estimate_pstar
from robbench.record import MISCLASSIFIED
from robbench.spec import EpsilonGrid

SEEDS = st.integers(0, 10_000)
IMAGES = 60


@pytest.fixture(scope="module")
def glyphs(one_thread):
    """A convolutional network trained for a moment on drawn digits of 14x14 pixels, and test images; float64."""
    drawn = draw("glyphs10", 400 + IMAGES, 0)
    images, labels = F.avg_pool2d(drawn.images.double() / 255, 2), drawn.labels
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten()
        model = nn.Sequential(*layers, nn.Linear(400, 10)).double()
        optimiser = torch.optim.Adam(model.parameters(), lr=0.005)
        for _ in range(12):
            for batch in torch.randperm(400).split(100):
                optimiser.zero_grad()
                F.cross_entropy(model(images[batch]), labels[batch]).backward()
                optimiser.step()
    return model.eval(), images[400:], labels[400:]


@pytest.fixture(scope="module")
def reference(glyphs):
    """The published search with its 40 steps on these images."""
    return estimate_pstar(*glyphs, GRID, oracle(40), batch_size=64)


@pytest.fixture(scope="module")
def found(glyphs):
    """The fast search on these images."""
    return fast(*glyphs, attack=oracle(40), batch_size=64)


def test_pstar_is_as_small_as_the_references_and_costs_at_most_half_the_passes(reference, found):
    """Never more than one grid step above, on average not above at all, sometimes below, and in half the passes."""
    right = reference.pstar >= 0
    assert ((found.pstar == MISCLASSIFIED) == ~right).all()
    assert IMAGES / 2 < right.sum() < IMAGES
    difference = (found.pstar - reference.pstar)[right]
    assert difference.max() <= 1
    assert difference.double().mean() <= 0
    assert difference.min() < 0
    assert found.forward <= reference.forward / 2
    assert found.backward <= reference.backward / 2


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_batch_size_never_changes_pstar(glyphs, found, batch_size):
    """Alone, in batches whose places are taken by the next images, or all at once: the same p* and brackets."""
    model, images, labels = glyphs
    count = 12 if batch_size == 1 else IMAGES
    search = fast(model, images[:count], labels[:count], batch_size=batch_size)
    assert search.pstar.tolist() == found.pstar[:count].tolist()
    assert search.last.tolist() == found.last[:count].tolist()


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(2, 40))
def test_the_order_of_the_images_never_changes_their_pstar(glyphs, found, seed, batch_size):
    """Permuted images have permuted results."""
    model, images, labels = glyphs
    order = torch.randperm(IMAGES, generator=torch.Generator().manual_seed(seed))
    search = fast(model, images[order], labels[order], batch_size=batch_size)
    assert search.pstar.tolist() == found.pstar[order].tolist()


@settings(max_examples=6, deadline=None)
@given(st.integers(1, 30), st.integers(1, 30), st.sampled_from([0.01, 0.1, 0.3]))
def test_passes_are_counted_exactly_and_no_batch_is_larger_than_asked(glyphs, batch_size, count, stop):
    """Forward and backward are the images that the network really saw, and none of its batches exceeds the size."""
    model, images, labels = glyphs
    counting = Counting(model)
    grid = EpsilonGrid(stop=stop, step=0.005).values
    search = fast(counting, images[:count], labels[:count], grid, batch_size=batch_size)
    assert (search.forward, search.backward) == (counting.forwards, counting.backwards)
    assert counting.largest <= batch_size


def test_places_are_refilled_and_moved_together(glyphs):
    """A full batch while images wait; after that at least three quarters of the places are in use."""
    model, images, labels = glyphs
    right = (model(images).argmax(dim=1) == labels).nonzero().flatten()[:30]
    _, passes = run_descent(model, images[right], labels[right], size=8)
    alone = sum(len(run_descent(model, images[[one]], labels[[one]])[1]) for one in right.tolist())
    assert passes == sorted(passes, reverse=True)
    assert passes[0] == 8
    assert passes.count(8) > len(passes) / 2
    assert alone <= sum(passes) <= alone / 0.75
    sizes = sorted(set(passes), reverse=True)
    assert all(after < 0.75 * before for before, after in pairwise(sizes))
    assert len(sizes) > 2


@pytest.mark.parametrize("box", [BOX, (-0.1, 1.05)])
def test_every_pstar_is_proven(glyphs, monkeypatch, box):
    """Behind each there is an image in its ball and box, misclassified by an inference of our own; none is beyond."""
    model, images, labels = glyphs
    right = model(images).argmax(dim=1) == labels
    images, labels = images[right], labels[right]
    judge, proofs = robbench.estimation.shrinking_ball.is_counterexample, []

    def spy(model, adversarial, originals, labels, radius, *, box):
        proofs.extend(zip(adversarial, originals, labels, radius, strict=True))
        return judge(model, adversarial, originals, labels, radius, box=box)

    monkeypatch.setattr(robbench.estimation.shrinking_ball, "is_counterexample", spy)
    pstar, _ = run_descent(model, images, labels, box=box, size=16)
    assert len(proofs) == len(images)
    assert max(pstar) < len(GRID)
    assert sorted(GRID.index(radius.item()) for *_, radius in proofs) == sorted(pstar)
    for adversarial, original, label, radius in proofs:
        distance = (adversarial - original).abs().max()
        assert radius - 0.005 < distance <= radius + BALL_TOLERANCE
        assert box[0] <= adversarial.min()
        assert adversarial.max() <= box[1]
        with torch.no_grad():
            assert model(adversarial[None]).argmax() != label


@settings(max_examples=6, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(3, 12))
def test_an_interrupted_search_goes_on_to_the_same_result(glyphs, share, batch_size):
    """Stopped after any report but the last, in descent or reference, and taken up again: the same p*, brackets and passes."""
    model, images, labels = glyphs
    images, labels, grid = images[:24], labels[:24], EpsilonGrid(stop=0.06, step=0.005).values
    reports = []
    whole = fast(
        model, images, labels, grid, batch_size=batch_size, on_progress=lambda state: reports.append(state.forward)
    )
    stop_after, calls = 1 + int(share * (len(reports) - 1)), []

    def interrupt(state):
        calls.append(copy.deepcopy(state))
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fast(model, images, labels, grid, batch_size=batch_size, on_progress=interrupt)
    assert calls[-1].forward == reports[stop_after - 1]
    assert len(calls[-1].undecided) > 0
    resumed = fast(model, images, labels, grid, batch_size=batch_size, state=calls[-1])
    assert results(resumed) == results(whole)
    assert len(grid) in whole.pstar.tolist()
    assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)


@pytest.mark.parametrize("smaller", [1, 4])
def test_a_smaller_batch_takes_up_what_a_larger_one_had_in_hand(glyphs, smaller):
    """The images under attack begin again, before those that wait, the first of all among them and none twice."""
    model, images, labels = glyphs
    images, labels, states = images[:24], labels[:24], []
    whole = fast(model, images, labels, batch_size=7, on_progress=lambda state: states.append(copy.deepcopy(state)))
    assert whole.pstar[0] != MISCLASSIFIED
    for state in (states[0], states[len(states) // 2], states[-2]):
        busy = state.descent.slots.index[state.descent.slots.index >= 0].tolist()
        if len(state.descent.slots.index) <= smaller:
            continue
        counting, before, began = Counting(model), (state.forward, state.backward), []
        counting.register_forward_pre_hook(lambda module, given, began=began: began.append(given[0].detach()))
        resumed = fast(counting, images, labels, batch_size=smaller, state=state)
        assert resumed.pstar.tolist() == whole.pstar.tolist()
        assert (resumed.forward - before[0], resumed.backward - before[1]) == (counting.forwards, counting.backwards)
        assert counting.largest <= smaller
        assert torch.equal(began[0], images[busy[:smaller]])


# --- what is left behind ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [False, True])
def test_the_search_leaves_the_network_and_the_images_as_they_were(glyphs, stops):
    """Modes, requires_grad flags, gradients and pixels are as before, even when the search is stopped."""
    model, images, labels = copy.deepcopy(glyphs)
    model.train()
    model[3].eval()
    model[0].bias.requires_grad_(False)
    model[6].weight.grad = torch.full_like(model[6].weight, 7.0)

    def left():
        flags = [(p.requires_grad, None if p.grad is None else p.grad.tolist()) for p in model.parameters()]
        return [module.training for module in model.modules()], flags

    def report(state):
        assert [parameter.requires_grad for parameter in model.parameters()] == [flag for flag, _ in before[1]]
        if stops:
            raise KeyboardInterrupt

    before, pixels = left(), images.clone()
    try:
        fast(model, images[:8], labels[:8], batch_size=3, on_progress=report)
    except KeyboardInterrupt:
        assert stops
    assert left() == before
    assert torch.equal(images, pixels)
    assert not images.requires_grad


def test_dropout_does_not_act(glyphs, found):
    """A network in training mode is searched in eval mode."""
    model, images, labels = glyphs
    model = nn.Sequential(*copy.deepcopy(model)[:-1], nn.Dropout(0.5), copy.deepcopy(model)[-1]).train()
    assert fast(model, images[:10], labels[:10]).pstar.tolist() == found.pstar[:10].tolist()


def test_bytes_and_floats_are_the_same_images(glyphs):
    """uint8 images and the float32 images they stand for have the same p*."""
    model, images, labels = glyphs
    model, grey = copy.deepcopy(model).float(), (images[:20] * 255).to(torch.uint8)
    from_bytes = fast(model, grey, labels[:20]).pstar
    assert from_bytes.tolist() == fast(model, grey.float() / 255, labels[:20]).pstar.tolist()
    assert len(set(from_bytes.tolist())) > 4
