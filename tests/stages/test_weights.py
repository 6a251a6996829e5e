"""Stages and checkpoints are tied to the weights that they began with."""

from dataclasses import replace

import pytest
from stages import ESTIMATE, FOOLING, RECIPE, Killed, comparable, killer, source, target

import robbench.machine.memory
import robbench.stages.robustness
from robbench.stages.pipeline import run_estimate, run_training


def retrain(context, model):
    """Put other weights in the place of a trained model's, under its digest, as another machine would."""
    finished, moved = context.store.finished(model.digest), context.store.weights(model.digest)
    moved["0.weight"].neg_()
    context.store.finish(finished.record, moved, inputs=finished.inputs, made_from=finished.made_from)


def test_pstar_of_former_weights_is_estimated_again(place, ran):
    """A model trained anew has none of the p* of the one before, and the run says so; with the same weights it is reused."""
    said = []
    former = run_estimate(source(), FOOLING, place(), suite="demo")
    run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo")
    assert (ran, said) == (["train", "estimate"], [])
    retrain(place(), source())
    later = run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo")
    assert ran == ["train", "estimate", "estimate"]
    assert said == [f"{source().id}: p* is estimated again, the finished stage is of former weights"]
    assert later.robustness.pstar != former.robustness.pstar
    assert run_estimate(source(), FOOLING, place(resume=True, say=said.append), suite="demo") == later
    assert len(ran) == 3


def test_a_transfer_from_former_weights_is_trained_again(place, ran):
    """Its p* with it; a source that came out as before, or is not in the store any more, leaves both as they are."""
    said, model = [], target()
    run_estimate(model, FOOLING, place(), suite="demo")
    run_training(source(), place(), suite="demo")
    run_estimate(model, FOOLING, place(resume=True, say=said.append), suite="demo")
    assert (ran, said) == (["train", "train", "estimate", "train"], [])
    ran.clear()
    retrain(place(), source())
    run_estimate(model, FOOLING, place(resume=True, say=said.append), suite="demo")
    assert ran == ["train", "estimate"]
    assert said == [
        f"{model.id}: trained again, the finished stage began with former weights of {source().id}",
        f"{model.id}: p* is estimated again, the finished stage is of former weights",
    ]
    context = place(resume=True, say=said.append)
    (context.store.folder / source().digest[:2] / source().digest / "stage.json").unlink()
    run_estimate(model, FOOLING, context, suite="demo")
    assert (len(ran), len(said)) == (2, 2)


def test_a_transfer_of_a_transfer_from_former_weights_is_trained_again(place, ran):
    """However far back the weights changed."""
    last = target(of=target(), dataset="near")
    run_training(last, place(), suite="demo")
    retrain(place(), source())
    ran.clear()
    run_training(last, place(resume=True), suite="demo")
    assert ran == ["train", "train"]


@pytest.mark.parametrize("stage", ["training", "robustness"])
def test_a_stage_that_does_not_name_its_weights_is_reused(place, ran, stage):
    """As older versions left it: a store of theirs stays of use."""
    model = target()
    run_estimate(model, ESTIMATE, place(), suite="demo")
    ran.clear()
    store = place().store
    digest = model.digest if stage == "training" else model.estimate_digest(ESTIMATE)
    finished = store.finished(digest)
    assert finished.made_from is not None
    store.finish(finished.record, store.weights(digest) if stage == "training" else None, inputs=finished.inputs)
    retrain(place(), source() if stage == "training" else model)
    run_training(model, place(resume=True), suite="demo")
    if stage == "robustness":
        run_estimate(model, ESTIMATE, place(resume=True), suite="demo")
    assert ran == []


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_an_unfinished_search_of_former_weights_is_not_gone_on_with(place, tmp_path, monkeypatch, search):
    """Resumed after the model was trained anew, it begins anew, says so, and ends as if there had been no checkpoint."""
    monkeypatch.setattr(robbench.stages.robustness, "CHECKPOINT_SECONDS", -1.0)
    monkeypatch.setitem(robbench.machine.memory.LARGEST_BATCH, "cpu", 4)
    estimate, said = replace(FOOLING, search=search), []
    with pytest.raises(Killed):
        run_estimate(source(), estimate, place(show=killer("p*", 4)), suite="demo")
    retrain(place(), source())
    record = run_estimate(source(), estimate, place(resume=True, say=said.append), suite="demo")
    assert said == [f"{source().id}: p* is estimated from the start, its checkpoint is of former weights"]
    assert comparable(record) == comparable(run_estimate(source(), estimate, place(), suite="demo"))


def test_an_unfinished_transfer_from_former_weights_is_not_gone_on_with(place):
    """Resumed after its source was trained anew, it begins at the first epoch, and says so."""
    model, said, shown = target(recipe=replace(RECIPE, epochs=3)), [], []
    run_training(source(), place(), suite="demo")
    with pytest.raises(Killed):
        run_training(model, place(show=killer("training", 8)), suite="demo")
    retrain(place(), source())
    context = place(resume=True, say=said.append, show=lambda what, done, total: shown.append(done))
    run_training(model, context, suite="demo")
    assert min(shown) == 0.0
    assert said == [f"{model.id}: trained from the start, its checkpoint began with former weights of {source().id}"]
