"""p*: the batched search returns what the published sequential one does, and what a linear model's closed form says."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from networks import Counting, linear, linear_case
from torch import nn

import robbench.estimation
from robbench.errors import RobbenchError
from robbench.estimation import Search, estimate_pstar
from robbench.record import WRONG
from robbench.spec import PGD, EpsilonGrid

SHAPE = (1, 6, 6)
SEEDS = st.integers(0, 10_000)
GRID = EpsilonGrid(stop=0.16, step=0.005).values


def oracle(steps):
    """The published attack with fewer steps than its 40."""
    return PGD(steps=steps, random_start=False)


def problem(count, seed=0):
    """Noisy images of three patterns, uint8, and their labels: a task that a small network does not solve perfectly."""
    generator = torch.Generator().manual_seed(seed)
    patterns = torch.rand(3, *SHAPE, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(3, (count,), generator=generator)
    noise = torch.rand(count, *SHAPE, generator=generator)
    return ((0.3 * patterns[labels] + 0.7 * noise) * 255).to(torch.uint8), labels


@pytest.fixture(scope="module")
def trained(one_thread):
    """A convolutional network with ReLU and max-pooling, trained for a moment; float64."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(0.3)
        model = nn.Sequential(*layers, nn.Linear(54, 3)).double()
        images, labels = problem(512, seed=1)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimiser.zero_grad()
            F.cross_entropy(model(images.double() / 255), labels).backward()
            optimiser.step()
    return model


def published_pstar(model, image, label, grid, steps):
    """ADA-VERONA's sequential search for one image: index of p*, len(grid) if never fooled, WRONG if misclassified."""
    with torch.no_grad():
        if model(image[None]).argmax().item() != label:
            return WRONG
    first, last, smallest = 0, len(grid) - 1, len(grid)
    while first <= last:
        middle = (first + last) // 2
        epsilon = grid[middle]
        adversarial = image[None].clone()
        for _ in range(steps):
            adversarial.requires_grad_()
            loss = nn.CrossEntropyLoss()(model(adversarial), torch.tensor([label]))
            (gradient,) = torch.autograd.grad(loss, adversarial)
            stepped = adversarial.detach() + epsilon / steps * gradient.sign()
            delta = torch.clamp(stepped - image, min=-epsilon, max=epsilon)
            adversarial = torch.clamp(image + delta, min=0, max=1)
        with torch.no_grad():
            fooled = model(adversarial).argmax().item() != label
        if fooled:
            smallest, last = middle, middle - 1
        else:
            first = middle + 1
    return smallest


@pytest.mark.parametrize(
    ("dtype", "count", "steps", "batch_size"),
    [
        (torch.float64, 200, 8, 64),
        (torch.float64, 30, 40, 7),
        (torch.float32, 100, 8, 33),
        (torch.float32, 20, 40, None),
    ],
)
def test_the_search_returns_image_by_image_what_the_published_one_does(trained, dtype, count, steps, batch_size):
    """Binary search, one image at a time, written out above, finds the same p* for every one of the images."""
    images, labels = problem(count, seed=steps + count)
    model = copy.deepcopy(trained).to(dtype)
    pixels = images.to(dtype) / 255
    given = images if dtype == torch.float32 else pixels
    search = estimate_pstar(model, given, labels, GRID, oracle(steps), batch_size=batch_size)
    model.eval()
    pairs = zip(pixels, labels.tolist(), strict=True)
    expected = [published_pstar(model, image, label, GRID, steps) for image, label in pairs]
    assert search.pstar.tolist() == expected
    assert WRONG in expected
    assert len(set(expected)) > 8


@settings(max_examples=30, deadline=None)
@given(SEEDS, st.sampled_from([0.002, 0.005, 0.01, 0.03]), st.floats(0.03, 0.3), st.integers(1, 6))
def test_a_linear_models_pstar_is_its_margin_rounded_up_to_the_grid(seed, step, stop, steps):
    """p* is the smallest grid value above |w·x + b| ÷ ‖w‖₁, and censored where the grid ends before."""
    model, images, labels, exact = linear_case(seed)
    grid = EpsilonGrid(stop=stop, step=step).values
    assume(all(abs(value - radius) > 1e-9 for value in exact.tolist() for radius in grid))
    search = estimate_pstar(model, images, labels, grid, oracle(steps), batch_size=5)
    assert search.pstar.tolist() == [sum(radius < value for radius in grid) for value in exact.tolist()]


@settings(max_examples=25, deadline=None)
@given(SEEDS, st.integers(2, 6), st.integers(1, 8))
def test_a_larger_grid_step_never_finds_a_smaller_pstar(seed, factor, coarse_values):
    """On a grid of every n-th radius, a linear model's p* is as large or larger, by less than one of its steps."""
    model, images, labels, _ = linear_case(seed)
    coarse = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006 * factor).values
    fine = EpsilonGrid(stop=0.006 * factor * coarse_values, step=0.006).values
    assert set(coarse) <= set(fine)

    def pstar(grid):
        search = estimate_pstar(model, images, labels, grid, oracle(2))
        return [[*grid, math.inf][place] for place in search.pstar.tolist()]

    for large, small in zip(pstar(coarse), pstar(fine), strict=True):
        assert large >= small
        assert math.isinf(small) or large - small < 0.006 * factor - 1e-9


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 45), st.integers(0, 3), st.integers(1, 4))
def test_the_batch_size_never_changes_pstar(trained, batch_size, seed, steps):
    """Any batch size finds the p* that one batch of all images finds, with as many passes."""
    images, labels = problem(40, seed)
    images = images.double() / 255
    whole = estimate_pstar(trained, images, labels, GRID, oracle(steps), batch_size=40)
    split = estimate_pstar(trained, images, labels, GRID, oracle(steps), batch_size=batch_size)
    assert split.pstar.tolist() == whole.pstar.tolist()
    assert (split.forward, split.backward) == (whole.forward, whole.backward)


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 30), st.integers(1, 5), st.integers(1, 30))
def test_passes_are_counted_exactly_and_no_batch_is_larger_than_asked(trained, batch_size, steps, count):
    """Forward and backward are the images that the network really saw, and none of its batches exceeds the size."""
    images, labels = problem(count, seed=count)
    model = Counting(trained)
    search = estimate_pstar(model, images.double() / 255, labels, GRID, oracle(steps), batch_size=batch_size)
    assert (search.forward, search.backward) == (model.forwards, model.backwards)
    assert model.largest <= batch_size


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


@settings(max_examples=8, deadline=None)
@given(st.sampled_from(["reference", "fast"]), st.sampled_from([(0.0, 1.0), (-0.1, 1.05)]), st.integers(3, 40))
def test_what_is_kept_proves_every_pstar(trained, search, box, batch_size):
    """One image for each p*, inside its ball and box and misclassified by float32 inference; keeping changes nothing."""
    images, labels = problem(40, seed=3)
    model, attack = copy.deepcopy(trained).float(), PGD(steps=5, random_start=False, box=box)
    options = {"search": search, "batch_size": batch_size}
    plain = estimate_pstar(model, images, labels, GRID, attack, **options)
    kept = estimate_pstar(model, images, labels, GRID, attack, keep_adversarials=True, **options)
    assert plain.adversarials is None
    assert torch.equal(plain.pstar, kept.pstar)
    assert (plain.forward, plain.backward) == (kept.forward, kept.backward)

    found = (kept.pstar != WRONG) & (kept.pstar < len(GRID))
    assert 10 < found.sum() < 40
    assert kept.adversarials.dtype == torch.float32
    assert not kept.adversarials[~found].any()
    adversarial, originals = kept.adversarials[found], images[found].float() / 255
    distance = (adversarial.double() - originals.double()).abs().flatten(1).amax(1)
    radius = torch.tensor(GRID, dtype=torch.float64)[kept.pstar[found]]
    assert (radius > 0).all()
    assert (distance <= radius + 1e-6).all()
    assert box[0] <= adversarial.min() <= adversarial.max() <= box[1]
    with torch.no_grad():
        assert (model.eval()(adversarial).argmax(1) != labels[found]).all()


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
    assert (resumed.forward - before[0], resumed.backward - before[1]) == (counting.forwards, counting.backwards)
    assert 0 < counting.backwards < whole.backward


def test_a_grid_keeps_its_double_precision():
    """A margin just below 0.7, which in float32 is smaller still: the radius 0.7 fools, and not only the next one."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 36 * (0.7 - 5e-9))
    images, labels = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    wide = PGD(steps=1, random_start=False, box=(-2.5, 2.5))
    assert estimate_pstar(model, images, labels, [0.0, 0.7, 1.0], wide).pstar.tolist() == [1]


def test_a_search_begins_without_any_pass():
    """What is given are the brackets alone."""
    search = Search(first=torch.tensor([0, 3]), last=torch.tensor([2, 2]), pstar=torch.tensor([3, 3]))
    assert (search.forward, search.backward, search.notes) == (0, 0, [])
    assert search.undecided.tolist() == [0]
    search.first[0] = 2
    assert search.undecided.tolist() == [0]


def test_a_constant_network_is_never_fooled_or_always_wrong():
    """Images of the class it names are censored, the others wrong, and the wrong ones are never attacked."""
    model = Counting(linear(torch.zeros(36, dtype=torch.float64), bias=1.0))
    images, labels = torch.rand(6, *SHAPE, dtype=torch.float64), torch.tensor([0, 1, 0, 1, 1, 1])
    search = estimate_pstar(model, images, labels, [0.0, 0.1, 0.2, 0.3], oracle(5))
    assert search.pstar.tolist() == [4, WRONG, 4, WRONG, WRONG, WRONG]
    # Two images, probed at 1, 2 and 3 with five steps and a confirmation each.
    assert (search.forward, search.backward) == (6 + 2 * 3 * 6, 2 * 3 * 5)


def test_the_smallest_possible_pstar_is_the_first_radius_above_zero():
    """An image next to the decision border falls at the grid's first step, never at ε = 0, where nothing is attacked."""
    model = Counting(linear(torch.ones(36, dtype=torch.float64), bias=-18.0 + 1e-6))
    images, labels = torch.full((1, *SHAPE), 0.5, dtype=torch.float64), torch.tensor([0])
    search = estimate_pstar(model, images, labels, [0.0, 0.1, 0.2], oracle(1))
    assert search.pstar.tolist() == [1]
    assert (search.forward, search.backward) == (1 + 2, 1)


@pytest.mark.parametrize(("grid", "expected"), [([0.0], [1, 1]), ([0.1], [0, 1]), ([0.3], [0, 0])])
def test_a_grid_may_have_one_value(grid, expected):
    """ε = 0 alone fools nobody; one radius fools the images whose margin it exceeds."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images = torch.stack([torch.full(SHAPE, value, dtype=torch.float64) for value in (0.55, 0.7)])
    search = estimate_pstar(model, images, torch.tensor([0, 0]), grid, oracle(3))
    assert search.pstar.tolist() == expected


def test_pixels_never_leave_the_box():
    """White images cannot grow brighter: they stay right at every radius, unless the attack's box is wider."""
    model = linear(-torch.ones(36, dtype=torch.float64), bias=36.5)  # class 0 up to a mean pixel of 1.01
    images, labels = torch.ones(2, *SHAPE, dtype=torch.float64), torch.tensor([0, 0])
    grid = [0.0, 0.005, 0.05, 0.1]
    assert estimate_pstar(model, images, labels, grid, oracle(4)).pstar.tolist() == [4, 4]
    wide = PGD(steps=4, random_start=False, box=(-2.5, 2.5))
    assert estimate_pstar(model, images, labels, grid, wide).pstar.tolist() == [2, 2]


def test_bytes_and_floats_are_the_same_images(trained):
    """uint8 images and the float32 images they stand for have the same p*."""
    images, labels = problem(30, seed=8)
    model = copy.deepcopy(trained).float()
    from_bytes = estimate_pstar(model, images, labels, GRID, oracle(3)).pstar
    from_floats = estimate_pstar(model, images.float() / 255, labels, GRID, oracle(3)).pstar
    assert from_bytes.tolist() == from_floats.tolist()
    assert len(set(from_bytes.tolist())) > 4


def test_the_model_is_evaluated_in_eval_mode_and_put_back(trained):
    """Its dropout does not act during the search, and is in training mode afterwards, as it was before."""
    images, labels = problem(20, seed=9)
    trained.train()
    training = estimate_pstar(trained, images.double() / 255, labels, GRID, oracle(2)).pstar
    assert all(module.training for module in trained.modules())
    evaluated = estimate_pstar(copy.deepcopy(trained).eval(), images.double() / 255, labels, GRID, oracle(2)).pstar
    assert training.tolist() == evaluated.tolist()


@pytest.mark.parametrize(("failures", "last"), [(1, 8), (3, 2)])
def test_batches_are_halved_when_memory_runs_out(trained, monkeypatch, failures, last):
    """Each failure halves the batch and leaves a note; p* and passes are those of a search that had enough memory."""
    images, labels = problem(40, seed=4)
    images = images.double() / 255
    enough = estimate_pstar(trained, images, labels, GRID, oracle(2), batch_size=16)
    attack, left = robbench.estimation.pgd, [failures]

    def scarce(*arguments, **options):
        if left[0]:
            left[0] -= 1
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return attack(*arguments, **options)

    monkeypatch.setattr(robbench.estimation, "pgd", scarce)
    counting = Counting(trained)
    search = estimate_pstar(counting, images, labels, GRID, oracle(2), batch_size=16)
    assert search.pstar.tolist() == enough.pstar.tolist()
    assert (search.forward, search.backward) == (enough.forward, enough.backward)
    assert [int(note.split()[-2]) for note in search.notes] == [16 // 2**n for n in range(1, failures + 1)]
    assert search.notes[-1].endswith(f"batches of {last} images")


def test_memory_for_not_even_one_image_is_an_error(trained, monkeypatch):
    """A batch of one cannot be halved: one sentence says what to do."""

    def scarce(*arguments, **options):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(robbench.estimation, "pgd", scarce)
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
