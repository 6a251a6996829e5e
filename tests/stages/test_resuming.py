"""A stage that was killed anywhere and goes on ends as if it had not been."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stages import (
    ADVERSARY,
    ESTIMATE,
    FOOLING,
    RECIPE,
    Killed,
    comparable,
    estimate,
    killer,
    source,
    train,
    write_images,
)

import robbench.estimation.fixed_radii
import robbench.machine.memory
import robbench.stages.robustness_stage
from robbench.spec import PGD, Dataset, Model

ADAM = replace(RECIPE, optimiser="adam", learning_rate=0.005, epochs=3)
MOMENTUM = replace(RECIPE, attack=ADVERSARY, epochs=3)
TESTED = replace(ESTIMATE, final_test=tuple(PGD(epsilon=e, steps=2, random_start=False) for e in (0.02, 0.1)))


@pytest.fixture
def often(monkeypatch):
    """Small batches, and the state of a search saved after every step."""
    monkeypatch.setattr(robbench.stages.robustness_stage, "SAVE_SECONDS", 0.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 4)


def killed_and_resumed(new_run, word, call, job, **options):
    """Run a job that is killed, and go on with it in a new run; the second run's context and the record."""
    with pytest.raises(Killed):
        job(new_run(show=killer(word, call), **options))
    second = new_run(**options)
    return second, job(second)


@pytest.mark.parametrize("call", [2, 5, 8, 9])
@pytest.mark.parametrize("recipe", [ADAM, MOMENTUM], ids=["adam", "adversarial-sgd"])
def test_a_training_killed_anywhere_ends_as_if_it_had_not_been(new_run, recipe, call):
    """In any epoch of three: the same record, and bit by bit the same weights."""
    dataset = Dataset(name="near", augmentation="crop-flip", mean=(0.4,), std=(0.3,))
    model = Model(architecture="own_networks:small", dataset=dataset, recipe=recipe, seed=3)
    whole = new_run("whole")
    expected = train(model, whole)
    second, record = killed_and_resumed(new_run, "training", call, lambda context: train(model, context))
    assert comparable(record) == comparable(expected)
    one, other = (context.store.weights(context.store.finished(record.key)) for context in (whole, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert second.store.load_state(record.key) is None


def test_a_training_goes_on_where_it_stopped(new_run):
    """Killed in the third epoch, only the third is trained, and the seconds of the first two are counted on."""
    model, shown = source(epochs=3), []
    with pytest.raises(Killed):
        train(model, new_run(show=killer("training", 9)))
    record = train(model, new_run(show=lambda what, done, *_: shown.append(done)))
    assert min(shown) >= 2.0
    assert [epoch.epoch for epoch in record.training.epochs] == [1, 2, 3]
    assert sum(epoch.seconds for epoch in record.training.epochs) <= record.seconds.training + 1e-6


def test_a_training_says_its_epoch_and_how_the_last_one_went(new_run):
    """Loss, clean and robust accuracy as in the record."""
    shown = []
    record = train(source(epochs=2), new_run(show=lambda what, done, total, detail="": shown.append(detail)))
    first, second = (
        f"loss {epoch.loss:.3g}, accuracy {100 * epoch.validation.share:.1f} %, robust {100 * epoch.robust.share:.1f} %"
        for epoch in record.training.epochs
    )
    assert list(dict.fromkeys(shown)) == ["epoch 1 of 2", f"epoch 2 of 2, {first}", f"epoch 2 of 2, {second}"]


@pytest.mark.parametrize("change", ["fresh", "images"])
def test_state_is_not_gone_on_with_where_it_is_not_wanted(new_run, change):
    """A fresh run begins at the first epoch, and so does one on other images."""
    model, shown = source(epochs=3), []
    first = new_run(show=killer("training", 9))
    with pytest.raises(Killed):
        train(model, first)
    if change == "images":
        write_images(first.data, "near", seed=9)
    train(model, new_run(show=lambda what, done, *_: shown.append(done), fresh=change == "fresh"))
    assert min(shown) < 1.0


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize(("word", "call"), [("p*", 2), ("p*", 4), ("p*", 22), ("fixed", 2), ("audit", 1)])
def test_an_estimate_killed_anywhere_ends_as_if_it_had_not_been(new_run, often, search, word, call):
    """The same p*, robust accuracies, audit and numbers of passes, with both searches."""
    spec, shown = replace(TESTED, search=search), []
    expected = estimate(source(), new_run("whole", show=lambda what, *_: shown.append(what)), spec)
    call = min(call, sum(what.startswith(word) for what in shown))
    _, record = killed_and_resumed(new_run, word, call, lambda context: estimate(source(), context, spec))
    assert comparable(record) == comparable(expected)


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_kept_counterexamples_survive_a_kill(new_run, often, search):
    """The search that goes on has kept bit by bit what an uninterrupted one keeps."""
    spec = replace(FOOLING, search=search)
    whole = new_run("whole", keep_adversarials=True)
    expected = estimate(source(), whole, spec)
    second, record = killed_and_resumed(
        new_run, "p*", 3, lambda context: estimate(source(), context, spec), keep_adversarials=True
    )
    assert record.robustness.pstar == expected.robustness.pstar
    kept = second.store.adversarials(record.key)
    assert len(kept) > 2
    assert torch.equal(kept, whole.store.adversarials(record.key))


def test_a_search_that_kept_no_counterexamples_begins_again_for_a_run_that_keeps_them(new_run, often):
    """Its state has none; p* is the same."""
    expected = estimate(source(), new_run("whole"), FOOLING)
    with pytest.raises(Killed):
        estimate(source(), new_run(show=killer("p*", 3)), FOOLING)
    second = new_run(keep_adversarials=True)
    record = estimate(source(), second, FOOLING)
    assert comparable(record) == comparable(expected)
    assert len(second.store.adversarials(record.key)) > 2


def test_an_audit_that_was_killed_searches_no_more(new_run, monkeypatch):
    """However short the search was: only the audit begins again."""
    with pytest.raises(Killed):
        estimate(source(), new_run(show=killer("audit", 1)), TESTED)
    monkeypatch.setattr(robbench.estimation.fixed_radii.FixedRadii, "step", lambda self: pytest.fail("attacked again"))
    shown = []
    record = estimate(source(), new_run(show=lambda what, *_: shown.append(what)), TESTED)
    assert record.robustness.audit is not None
    assert all(what.startswith("audit") for what in shown)
