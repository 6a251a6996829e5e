"""Checkpoints: a training run and a p* search come back from the store as they were, or not at all."""

from __future__ import annotations

import copy
from dataclasses import is_dataclass

import pytest
import torch
from factories import make_facts, training_record
from networks import Counting, linear_case
from robbench.estimation.search import Search, estimate_pstar

from robbench.errors import RobbenchError
from robbench.estimation.fixed_radii import FinalTest
from robbench.estimation.shrinking_ball import Descent, Slots
from robbench.record import Counts, Epoch, Seconds
from robbench.spec import PGD, EpsilonGrid
from robbench.stages.checkpoints import load_search, load_training, save_search, save_training
from robbench.store.store import Store
from robbench.training.loop import Progress

DIGEST = "5e" * 32
SECONDS = Seconds(training=1.5, validation=0.25, warm_up=0.125, estimation=3.0, io=0.5)


@pytest.fixture
def store(tmp_path):
    """An empty store."""
    return Store(tmp_path, run="first")


def progress():
    """Two epochs, of which the first is the one to keep; every part has a tensor named ``weight``, and none is alike."""
    half = Counts(correct=1, total=2)
    history = [
        Epoch(
            epoch=number,
            loss=0.1 + number / 3,
            learning_rate=0.01,
            train=half,
            validation=half,
            robust=half if number == 1 else None,
            seconds=1.0,
            validation_seconds=0.1,
        )
        for number in (1, 2)
    ]
    return Progress(
        history=history,
        weights={"weight": torch.tensor([1.0, 2.0]), "layer/weight": torch.tensor([7], dtype=torch.int64)},
        best={"weight": torch.tensor([3.0, 4.0]), "layer/weight": torch.tensor([5], dtype=torch.int64)},
        optimiser={"0.weight": torch.tensor([0.5]), "0.step": torch.tensor(9.0)},
        forward=11,
        backward=22,
        notes=["out of memory: smaller batches"],
    )


def search(**changes):
    """Three images: one undecided, one settled, one misclassified."""
    first, last, pstar = torch.tensor([[2, 3, 0], [5, 2, -1], [6, 3, -1]])
    notes = ["out of memory: smaller batches"]
    return Search(first=first, last=last, pstar=pstar, forward=33, backward=44, notes=notes, **changes)


def slots():
    """Two rows under attack, the second of them free; no two fields are alike."""
    images = torch.arange(24.0).reshape(3, 2, 1, 2, 2) / 24
    best, age, labels, index = torch.tensor([[6, 4], [3, 0], [1, 2], [0, -1]])
    return Slots(
        adversarial=images[0],
        best_image=images[1],
        best=best,
        age=age,
        originals=images[2],
        labels=labels,
        index=index,
    )


def plain(state):
    """A state as plain values, tensors with their dtype."""
    if isinstance(state, torch.Tensor):
        return state.dtype, state.tolist()
    if isinstance(state, dict):
        return {key: plain(value) for key, value in state.items()}
    return plain(vars(state)) if is_dataclass(state) else state


def test_a_training_run_comes_back_as_it_was(store):
    """History, weights, the best ones, the optimiser, passes and seconds, each in its own place."""
    save_training(store, DIGEST, progress(), inputs="these", seconds=SECONDS)
    loaded, seconds = load_training(store, DIGEST, inputs="these")
    assert plain(loaded) == plain(progress())
    assert seconds == SECONDS


def test_best_weights_that_are_the_last_are_kept_once(store):
    """Right after the best epoch both are the same tensors: the file has them once, and both come back."""
    state = progress()
    save_training(store, DIGEST, state, inputs="these", seconds=SECONDS)
    twice = store.load_checkpoint(DIGEST)[0]
    state.best = state.weights
    save_training(store, DIGEST, state, inputs="these", seconds=SECONDS)
    once = store.load_checkpoint(DIGEST)[0]
    assert len(twice) - len(once) == len(state.weights)
    assert plain(load_training(store, DIGEST, inputs="these")[0]) == plain(state)


@pytest.mark.parametrize(
    "state",
    [
        search(),
        search(size=64),
        search(adversarials=torch.rand(3, 1, 2, 2)),
        search(descent=Descent(waiting=torch.tensor([2, 0]))),
        search(descent=Descent(waiting=torch.tensor([2]), slots=slots())),
    ],
    ids=["reference", "size", "counterexamples", "waiting", "descending"],
)
def test_a_search_comes_back_as_it_was(store, state):
    """Brackets, p*, passes, notes, counterexamples, what a descent has in hand, seconds, and how far the final test is."""
    expected, testing = plain(state), FinalTest(fooled=[3, 1], start=8)
    save_search(store, DIGEST, state, inputs="these", seconds=SECONDS, testing=testing)
    loaded, *others = load_search(store, DIGEST, inputs="these")
    assert plain(loaded) == expected
    assert others == [testing, SECONDS]
    assert loaded.undecided.tolist() == [0]


@pytest.mark.parametrize("share", [0.2, 0.6, 0.9])
@pytest.mark.parametrize("search", ["fast", "reference"])
def test_an_interrupted_search_goes_on_from_its_checkpoint(store, search, share):
    """In a descent, or after it, with images that wait and some that are never fooled: the same end, and no pass twice."""
    model, images, labels, exact = linear_case(1)
    grid, attack = EpsilonGrid(stop=float(exact.median()), step=0.002).values, PGD(steps=3, random_start=False)
    states = []
    whole = estimate_pstar(
        model,
        images,
        labels,
        grid,
        attack,
        search=search,
        batch_size=4,
        keep_adversarials=True,
        on_progress=lambda state: states.append(copy.deepcopy(state)),
    )
    assert 2 < whole.pstar.tolist().count(len(grid)) < 10
    save_search(store, DIGEST, states[int(share * len(states))], inputs="these", seconds=SECONDS)
    state, testing, _ = load_search(store, DIGEST, inputs="these")
    assert testing == FinalTest()
    counting, before = Counting(model), (state.forward, state.backward)
    resumed = estimate_pstar(counting, images, labels, grid, attack, search=search, batch_size=4, state=state)
    assert plain(resumed) == plain(whole)
    assert (counting.forwards, counting.backwards) == (whole.forward - before[0], whole.backward - before[1])


def without(found, *names):
    """What a checkpoint holds, tensors and values, without some of the values."""
    tensors, values = found
    return tensors, {name: value for name, value in values.items() if name not in names}


def test_what_older_checkpoints_lack_is_as_at_the_start(store):
    """A training run has no notes; a search no size, which then is what memory allows, and no image was tested."""
    save_training(store, DIGEST, progress(), inputs="these", seconds=SECONDS)
    store.save_checkpoint(DIGEST, *without(store.load_checkpoint(DIGEST), "notes"))
    assert load_training(store, DIGEST, inputs="these")[0].notes == []
    save_search(store, DIGEST, search(size=64), inputs="these", seconds=SECONDS, testing=FinalTest([3], 8))
    store.save_checkpoint(DIGEST, *without(store.load_checkpoint(DIGEST), "size", "testing"))
    loaded, testing, _ = load_search(store, DIGEST, inputs="these")
    assert (loaded.size, testing) == (0, FinalTest())


@pytest.mark.parametrize(
    ("save", "load", "state"), [(save_training, load_training, progress()), (save_search, load_search, search())]
)
def test_a_checkpoint_is_of_its_digest_and_images_only(store, save, load, state):
    """There is none before the first, with other images, of another stage, or of a stage that is finished."""
    assert load(store, DIGEST, inputs="these") is None
    save(store, DIGEST, copy.deepcopy(state), inputs="these", seconds=SECONDS)
    assert load(store, DIGEST, inputs="these") is not None
    assert load(store, DIGEST, inputs="others") is None
    assert load(store, "0c" * 32, inputs="these") is None
    store.finish(training_record(make_facts(), digest=DIGEST), {})
    assert load(store, DIGEST, inputs="these") is None


@pytest.mark.parametrize(
    ("save", "load", "state"), [(save_training, load_training, progress()), (save_search, load_search, search())]
)
def test_a_checkpoint_of_other_weights_is_refused_aloud(store, save, load, state):
    """Not one of an older version, which does not say what weights it began with."""
    said = []
    names = {"inputs": "these", "refused": lambda: said.append("refused")}
    save(store, DIGEST, copy.deepcopy(state), inputs="these", seconds=SECONDS, made_from="a" * 64)
    assert load(store, DIGEST, made_from="a" * 64, **names) is not None
    assert said == []
    assert load(store, DIGEST, made_from="b" * 64, **names) is None
    assert said == ["refused"]
    save(store, DIGEST, copy.deepcopy(state), inputs="these", seconds=SECONDS)
    assert load(store, DIGEST, made_from="b" * 64, **names) is not None
    assert said == ["refused"]


NOTHING = {"history": [], "forward": 0, "backward": 0, "seconds": {}, "notes": []}


@pytest.mark.parametrize(
    ("change", "tensors"),
    [
        ({"history": [{"epoch": "one"}]}, {}),
        ({"history": 7}, {}),
        ({"seconds": {"training": -1.0}}, {}),
        ({"seconds": None}, {}),
        ({"forward": "x"}, {}),
        ({"backward": -1}, {}),
        ({"notes": "x"}, {}),
        ({}, {"other/a": torch.ones(1)}),
    ],
)
def test_a_training_run_that_is_not_whole_is_refused(store, change, tensors):
    """Its checksum is right, its content is not: another program wrote it."""
    store.save_checkpoint(DIGEST, {}, NOTHING | {"inputs": "these"})
    assert load_training(store, DIGEST, inputs="these") is not None
    store.save_checkpoint(DIGEST, tensors, NOTHING | {"inputs": "these"} | change)
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged"):
        load_training(store, DIGEST, inputs="these")


def test_what_training_would_not_have_left_is_refused(store):
    """The word of whoever knows network and recipe, told as damage of the file."""

    def check(state):
        raise ValueError(f"{len(state.history)} epochs")

    save_training(store, DIGEST, progress(), inputs="these", seconds=SECONDS)
    with pytest.raises(
        RobbenchError, match=r"checkpoint\.safetensors is damaged \(ValueError: 2 epochs\); remove its "
    ):
        load_training(store, DIGEST, inputs="these", check=check)


@pytest.mark.parametrize(
    "change",
    [{"forward": "x"}, {"backward": None}, {"notes": "x"}, {"size": -1}, {"testing": {"fooled": "x"}}, {"seconds": 1}],
)
def test_a_search_with_values_of_other_types_is_refused(store, change):
    """Passes, notes, size, final test and seconds are what they are said to be."""
    save_search(store, DIGEST, search(), inputs="these", seconds=SECONDS)
    tensors, values = store.load_checkpoint(DIGEST)
    store.save_checkpoint(DIGEST, tensors, values | change)
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged \(ValidationError"):
        load_search(store, DIGEST, inputs="these")


@pytest.mark.parametrize("name", ["first", "last", "pstar"])
def test_a_search_without_brackets_is_refused(store, name):
    """None of the three can be left out."""
    save_search(store, DIGEST, search(), inputs="these", seconds=SECONDS)
    tensors, values = store.load_checkpoint(DIGEST)
    del tensors[name]
    store.save_checkpoint(DIGEST, tensors, values)
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged \(KeyError"):
        load_search(store, DIGEST, inputs="these")


def test_what_a_search_would_not_have_left_is_refused(store):
    """The word of whoever knows images, grid and attacks, told as damage of the file."""

    def check(state, testing):
        raise ValueError(f"{len(state.pstar)} images, {testing.start} tested")

    save_search(store, DIGEST, search(), inputs="these", seconds=SECONDS, testing=FinalTest([3], 8))
    with pytest.raises(RobbenchError, match=r"damaged \(ValueError: 3 images, 8 tested\); remove its "):
        load_search(store, DIGEST, inputs="these", check=check)


def test_half_a_descent_is_refused(store):
    """Without one of the tensors of its images under attack it cannot go on."""
    state = search(descent=Descent(waiting=torch.tensor([2]), slots=slots()))
    save_search(store, DIGEST, state, inputs="these", seconds=SECONDS)
    tensors, values = store.load_checkpoint(DIGEST)
    del tensors["slots/age"]
    store.save_checkpoint(DIGEST, tensors, values)
    with pytest.raises(RobbenchError, match=r"checkpoint\.safetensors is damaged \(TypeError"):
        load_search(store, DIGEST, inputs="these")
