"""p* where a search is interrupted, memory runs out, or what is given has none."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import SHAPE, Counting, Cramped, linear, on_patterns, problem
from searches import oracle
from torch import nn

import robbench.estimation.search
import robbench.machine.memory
from robbench.attacks import pgd
from robbench.errors import RobbenchError
from robbench.estimation.search import Search, estimate_pstar
from robbench.models import build
from robbench.spec import EpsilonGrid

GRID = EpsilonGrid(stop=0.16, step=0.005).values


@pytest.fixture(scope="module")
def trained(one_thread):
    """A small convolutional network; float64."""
    return on_patterns()


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 1, exclude_max=True), st.integers(3, 12))
def test_an_interrupted_search_goes_on_to_the_same_result(trained, share, batch_size):
    """Stopped after any batch but the last and taken up again, it ends with the same p*, brackets and numbers of passes."""
    images, labels = problem(24, seed=3)
    images = images.double() / 255
    batches = []
    whole = estimate_pstar(
        trained, images, labels, GRID, oracle(2), batch_size=batch_size, on_progress=lambda state: batches.append(1)
    )
    stop_after, calls = 1 + int(share * (len(batches) - 1)), []

    def interrupt(state):
        calls.append(copy.deepcopy(state))
        if len(calls) == stop_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_pstar(trained, images, labels, GRID, oracle(2), batch_size=batch_size, on_progress=interrupt)
    assert len(calls[-1].undecided) > 0
    resumed = estimate_pstar(trained, images, labels, GRID, oracle(2), batch_size=batch_size, state=calls[-1])
    for name in ("first", "last", "pstar"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name))
    assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_what_an_interrupted_search_settled_is_not_done_again(trained, search):
    """Taken up again, it passes only what was left, and adds that to what it had counted."""
    images, labels = problem(24, seed=3)
    images, saved = images.double() / 255, []
    options = {"search": search, "batch_size": 8}

    def note(state):
        saved.append(copy.deepcopy(state))

    whole = estimate_pstar(trained, images, labels, GRID, oracle(2), on_progress=note, **options)
    half = saved[len(saved) // 2]
    counting, before = Counting(trained), (half.forward, half.backward)
    resumed = estimate_pstar(counting, images, labels, GRID, oracle(2), state=half, **options)
    assert resumed is half
    assert resumed.pstar.tolist() == whole.pstar.tolist()
    assert (counting.forwards, counting.backwards) == (whole.forward - before[0], whole.backward - before[1])
    assert (resumed.forward, resumed.backward) == (whole.forward, whole.backward)
    assert 0 < counting.backwards < whole.backward


@pytest.mark.parametrize(
    ("began", "asked", "room", "size"),
    [(4, None, 16, 4), (16, None, 4, 4), (0, None, 8, 8), (4, 16, 64, 16), (16, 4, 64, 4)],
)
def test_an_interrupted_search_keeps_its_batch(trained, monkeypatch, began, asked, room, size):
    """Where memory has room for it, nobody asks for another, and the state, of an older version, says what it was."""
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", room)
    images, labels = problem(24, seed=3)
    images, states = images.double() / 255, []
    whole = estimate_pstar(
        trained,
        images,
        labels,
        GRID,
        oracle(2),
        batch_size=began or 8,
        on_progress=lambda state: states.append(copy.deepcopy(state)),
    )
    assert whole.size == (began or 8)
    state = states[1]
    if not began:
        state = Search(first=state.first, last=state.last, pstar=state.pstar)
    counting = Counting(trained)
    resumed = estimate_pstar(counting, images, labels, GRID, oracle(2), batch_size=asked, state=state)
    assert (counting.largest, resumed.size) == (size, size)
    assert resumed.pstar.tolist() == whole.pstar.tolist()


@pytest.mark.parametrize(("failures", "last"), [(1, 8), (3, 2)])
def test_batches_are_halved_when_memory_runs_out(trained, monkeypatch, failures, last):
    """Each failure halves the batch and leaves a note; p* and passes are those of a search that had enough memory."""
    images, labels = problem(40, seed=4)
    images = images.double() / 255
    enough = estimate_pstar(trained, images, labels, GRID, oracle(2), batch_size=16)
    attack, left = robbench.estimation.search.pgd, [failures]

    def scarce(*arguments, **options):
        if left[0]:
            left[0] -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return attack(*arguments, **options)

    monkeypatch.setattr(robbench.estimation.search, "pgd", scarce)
    counting = Counting(trained)
    search = estimate_pstar(counting, images, labels, GRID, oracle(2), batch_size=16)
    assert search.pstar.tolist() == enough.pstar.tolist()
    assert (search.forward, search.backward) == (enough.forward, enough.backward)
    assert [int(note.split()[-2]) for note in search.notes] == [16 // 2**n for n in range(1, failures + 1)]
    assert search.notes[-1].endswith(f"batches of {last} images")


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_a_network_that_is_cramped_from_the_start_is_noted(trained, search):
    """Batches of 16 that do not even pass forward are halved on the unperturbed images, once for the whole search."""
    images, labels = problem(30, seed=4)
    images = images.double() / 255
    enough = estimate_pstar(trained, images, labels, GRID, oracle(2), search=search, batch_size=16)
    found = estimate_pstar(Cramped(trained, 5), images, labels, GRID, oracle(2), search=search, batch_size=16)
    assert found.pstar.tolist() == enough.pstar.tolist()
    assert found.notes == [f"out of memory: p* went on with batches of {size} images" for size in (8, 4)]
    assert found.size == 4


def test_memory_for_not_even_one_image_is_an_error(trained, monkeypatch):
    """A batch of one cannot be halved: one sentence says what to do."""

    def scarce(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(robbench.estimation.search, "pgd", scarce)
    images, labels = problem(4)
    with pytest.raises(RobbenchError, match="out of memory: not even one image at a time fits on cpu; free memory"):
        estimate_pstar(trained, images.double() / 255, labels, GRID, oracle(2), batch_size=4)


class Scarce(nn.Module):
    """Has memory for so many images when gradients are computed, and raises what ``error`` makes for more of them."""

    def __init__(self, model, room, error):
        super().__init__()
        self.model, self.room, self.error = model, room, error
        self.refused = []

    def forward(self, images):
        """Logits of the model inside."""
        if torch.is_grad_enabled() and len(images) > self.room:
            self.refused.append(len(images))
            raise self.error()
        return self.model(images)


def allocator_error():
    """What torch's CPU allocator really raises."""
    try:
        torch.empty(2**50)
    except RuntimeError as error:
        return error


OUT_OF_MEMORY = pytest.mark.parametrize(
    "error",
    [lambda: torch.cuda.OutOfMemoryError("CUDA out of memory"), MemoryError, allocator_error],
    ids=["cuda", "python", "cpu"],
)


@OUT_OF_MEMORY
@pytest.mark.parametrize("search", ["reference", "fast"])
def test_any_search_on_any_device_goes_on_with_half_the_batch(trained, search, error):
    """With room for five images, batches of 16 become batches of 4, two notes say so, and p* is the same."""
    images, labels = problem(30, seed=4)
    images, grid = images.double() / 255, GRID[:12]  # some images are never fooled, and go through both stages
    enough = estimate_pstar(trained, images, labels, grid, oracle(2), search=search, batch_size=16)
    scarce = Scarce(trained, 5, error)
    found = estimate_pstar(scarce, images, labels, grid, oracle(2), search=search, batch_size=16)
    for name in ("first", "last", "pstar"):
        assert torch.equal(getattr(found, name), getattr(enough, name))
    assert scarce.refused == [16, 8]
    assert found.notes == [f"out of memory: p* went on with batches of {size} images" for size in (8, 4)]
    assert enough.notes == []
    assert len(grid) in found.pstar.tolist()
    assert len(set(found.pstar.tolist())) > 4


def test_a_search_out_of_memory_half_way_keeps_what_it_had(trained):
    """After the third report only half the batch fits: what was settled is not attacked again."""
    images, labels = problem(40, seed=4)
    images, counting = images.double() / 255, Counting(trained)
    enough = estimate_pstar(trained, images, labels, GRID, oracle(2), search="fast", batch_size=16)
    scarce, settled = Scarce(counting, 16, MemoryError), []

    def report(state):
        settled.append(int((state.first > state.last).sum()))
        scarce.room = 16 if len(settled) < 3 else 8

    found = estimate_pstar(scarce, images, labels, GRID, oracle(2), search="fast", batch_size=16, on_progress=report)
    assert torch.equal(found.pstar, enough.pstar)
    assert scarce.refused == [16]
    assert len(found.notes) == 1
    assert settled == sorted(settled)
    assert settled[-1] == 40
    assert (found.forward, found.backward) == (counting.forwards, counting.backwards)
    assert enough.forward <= found.forward < 2 * enough.forward


@OUT_OF_MEMORY
def test_the_fast_search_of_a_single_image_says_what_to_do(trained, error):
    """A batch of one cannot be halved, and another error is not taken for it."""
    images, scarce = problem(4)[0].double() / 255, Scarce(trained.eval(), 0, error)
    labels = trained(images).argmax(dim=1)
    with pytest.raises(RobbenchError, match="not even one image at a time fits"):
        estimate_pstar(scarce, images, labels, GRID, oracle(2), search="fast", batch_size=4)
    assert scarce.refused == [4, 2, 1]
    broken = Scarce(trained, 0, lambda: RuntimeError("shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="shapes"):
        estimate_pstar(broken, images, labels, GRID, oracle(2), search="fast", batch_size=4)
    assert broken.refused == [4]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_an_error(value):
    """A network that diverged has no p*, and the message says so."""
    model = linear(torch.full((36,), value, dtype=torch.float64))
    with pytest.raises(RobbenchError, match="logits are not finite"):
        estimate_pstar(model, torch.ones(2, *SHAPE, dtype=torch.float64), torch.tensor([0, 0]), GRID, oracle(1))


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize(
    ("layers", "scale"), [(["conv1"], math.nan), (["conv4"], math.nan), (["fc1"], math.nan), (["conv1", "conv2"], 1e25)]
)
def test_what_a_relu_hides_is_not_hidden_from_the_search(layers, scale, search):
    """A ReLU of oneDNN makes 0 of NaN: such a network would have finite logits, and a p*."""
    network, images = build("cnn7", classes=10, shape=(1, 28, 28), seed=0), torch.rand(4, 1, 28, 28)
    with torch.no_grad():
        for layer in layers:
            getattr(network.body, layer).weight.mul_(scale)
        labels = network(images).argmax(dim=1)
    with pytest.raises(RobbenchError, match="logits are not finite"):
        estimate_pstar(network, images, labels, GRID, oracle(1), search=search)


def test_logits_that_are_not_finite_on_one_image_are_an_error():
    """The others' p* would be right, but such a network is broken; the error comes before any attack."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-35.5))
    model.model.register_forward_hook(lambda layer, inputs, logits: logits / (inputs[0].flatten(1)[:, :1] > 0.5))
    images = torch.ones(5, *SHAPE, dtype=torch.float64)
    images[3, 0, 0, 0] = 0.0
    with pytest.raises(RobbenchError, match="logits are not finite"):
        estimate_pstar(model, images, torch.zeros(5, dtype=torch.int64), GRID, oracle(1), batch_size=2)
    assert model.backwards == 0


@pytest.mark.parametrize(
    ("images", "labels", "grid", "message"),
    [
        (0, 0, [0.0, 0.1], r"labels: expected 0 \(at least one\), got 0"),
        (2, 3, [0.0, 0.1], r"labels: expected 2 \(at least one\), got 3"),
        (2, 2, [], r"grid: expected ascending radii ≥ 0, got \[\]"),
        (2, 2, [0.1, 0.1], r"grid: expected ascending radii ≥ 0, got \[0\.1, 0\.1\]"),
        (2, 2, [0.0, 0.2, 0.1], r"grid: expected ascending radii ≥ 0, got \[0\.0, 0\.2, 0\.1\]"),
        (2, 2, [-0.1, 0.1], r"grid: expected ascending radii ≥ 0, got \[-0\.1, 0\.1\]"),
    ],
)
def test_bad_arguments_are_named(images, labels, grid, message):
    """No image, labels of another number, and a grid that is empty, does not ascend or is negative: each an error."""
    model = linear(torch.ones(36, dtype=torch.float64))
    with pytest.raises(RobbenchError, match=message):
        estimate_pstar(
            model,
            torch.zeros(images, *SHAPE, dtype=torch.float64),
            torch.zeros(labels, dtype=torch.int64),
            grid,
            oracle(1),
        )


@pytest.mark.parametrize("value", [-0.1, 1.5, math.nan])
def test_pixels_that_are_none_are_refused(value):
    """One pixel outside [0, 1], or no number, is enough; the network is not even asked."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64)))
    images = torch.full((3, *SHAPE), 0.5, dtype=torch.float64)
    images[1, 0, 2, 2] = value
    with pytest.raises(RobbenchError, match="pixels"):
        estimate_pstar(model, images, torch.zeros(3, dtype=torch.int64), GRID, oracle(1))
    assert model.forwards == 0


def test_a_step_is_the_radius_divided_before_it_is_rounded(monkeypatch):
    """As in the published search: 0.04 ÷ 3 of float64 is another float32 than float32's 0.04 ÷ 3."""
    grid, steps = [0.02, 0.04, 0.08], []
    before, after = (torch.tensor(grid, dtype=torch.float64) / 3).float(), torch.tensor(grid) / 3
    assert not set(before.tolist()) & set(after.tolist())

    def spy(*given, step_size, **options):
        steps.append(step_size)
        return pgd(*given, step_size=step_size, **options)

    monkeypatch.setattr(robbench.estimation.search, "pgd", spy)
    images, labels = torch.full((4, *SHAPE), 0.5), torch.zeros(4, dtype=torch.int64)
    estimate_pstar(linear(torch.ones(36, dtype=torch.float64), bias=-16.0).float(), images, labels, grid, oracle(3))
    tried = {step for batch in steps for step in batch.tolist()}
    assert tried
    assert tried <= set(before.tolist())
