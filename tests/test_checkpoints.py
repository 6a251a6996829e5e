"""Checkpoints: a training run and a p* search come back from the store as they were, or not at all."""

from __future__ import annotations

import copy

import pytest
import torch
from factories import make_facts, training_record

from robbench.checkpoints import load_search, load_training, save_search, save_training
from robbench.estimation import Search
from robbench.final_test import FinalTest
from robbench.record import Counts, Epoch, Seconds
from robbench.store import Store
from robbench.training import Progress

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
    )


def search():
    """Three images: one undecided, one settled, one misclassified."""
    first, last, pstar = torch.tensor([[2, 3, 0], [5, 2, -1], [6, 3, -1]])
    return Search(
        first=first, last=last, pstar=pstar, forward=33, backward=44, notes=["out of memory: smaller batches"]
    )


def plain(state):
    """A state as plain values, tensors with their dtype."""
    return {
        name: {key: (tensor.dtype, tensor.tolist()) for key, tensor in value.items()}
        if isinstance(value, dict)
        else (value.dtype, value.tolist())
        if isinstance(value, torch.Tensor)
        else value
        for name, value in vars(state).items()
    }


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


def test_a_search_comes_back_as_it_was(store):
    """Brackets, p*, passes, notes and seconds, and how far the final test is."""
    save_search(store, DIGEST, search(), inputs="these", seconds=SECONDS, testing=FinalTest(fooled=[3, 1], start=8))
    loaded, testing, seconds = load_search(store, DIGEST, inputs="these")
    assert testing == FinalTest(fooled=[3, 1], start=8)
    assert plain(loaded) == plain(search())
    assert loaded.undecided.tolist() == [0]
    assert seconds == SECONDS


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
