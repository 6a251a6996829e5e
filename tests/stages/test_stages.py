"""Stages end to end on tiny networks: what runs, and what is stored."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from stages import ESTIMATE, RECIPE, source, target

import robbench.stages.networks
import robbench.stages.pipeline
import robbench.training.loop
from robbench.data import load
from robbench.models import build, weights
from robbench.record import MISCLASSIFIED
from robbench.spec import Checkpoint, Dataset, Model, Transfer
from robbench.stages.context import load_network
from robbench.stages.pipeline import run_estimate, run_training
from robbench.training.updates import validate


def test_a_transfer_trains_its_source_once_and_estimates_both(place, ran):
    """Six stages of three models run three trainings and three estimates; records name model, data and source."""
    context = place()
    models = [target(1), source(), target(2)]
    records = [run_estimate(model, ESTIMATE, context, suite="demo") for model in models]
    trainings = [run_training(model, context, suite="demo") for model in models]
    assert sorted(ran) == ["estimate"] * 3 + ["train"] * 3
    assert ran[:3] == ["train", "train", "estimate"]

    facts = records[0].model
    assert (facts.method, facts.source, facts.source_method, facts.k, facts.blocks) == ("transfer", "near", "pgd", 1, 4)
    assert (facts.source_case, facts.trainable) == (models[1].id, 4 * 24 + 4)
    assert (records[0].suite, records[0].case, records[0].stage) == ("demo", models[0].id, "robustness")
    assert [trainings[0].data.name, trainings[1].data.name] == ["far", "near"]
    assert (trainings[0].data.train, trainings[0].data.validation, trainings[0].data.test) == (48, 12, 30)
    assert records[0].data.test == 20
    assert trainings[1].training.robust is not None
    assert trainings[0].training.robust is None
    assert records[0].digest == models[0].estimate_digest(ESTIMATE)
    assert trainings[0].digest == models[0].digest
    for record in records:
        assert len(record.robustness.pstar) == 20
        assert record.robustness.grid == list(ESTIMATE.grid.values)
        assert record.seconds.estimation > 0
        assert record.seconds.training == 0


def test_the_stored_model_is_the_one_that_was_judged(place):
    """The network read back has the recorded validation accuracy, and is right on the images that have a p*."""
    context, model = place(), source()
    trained = run_training(model, context, suite="demo")
    robustness = run_estimate(model, ESTIMATE, context, suite="demo").robustness
    network = load_network(model, context)
    data = load(Dataset(name="near"), context.data)
    _, validation = robbench.data.training_parts(model.dataset, data, context.device)
    assert validate(network, RECIPE, validation, seed=0)[0] == trained.training.validation
    test = data.test.take(torch.tensor(robustness.images))
    right = network(test.images.float() / 255).argmax(1) == test.labels
    assert [place != MISCLASSIFIED for place in robustness.pstar] == right.tolist()
    assert 0 < sum(right) < 20


@pytest.mark.parametrize("tf32", [None, True])
def test_a_training_says_whether_its_products_were_rounded(place, monkeypatch, tf32):
    """As the device has it, in the record that the store gives back."""
    monkeypatch.setattr(robbench.training.loop, "multiplies_in_tf32", lambda device: tf32)
    context, model = place(), source()
    run_training(model, context, suite="demo")
    assert context.store.finished(model.digest).record.training.tf32 is tf32


@pytest.mark.parametrize(("kept", "moved"), [("frozen", False), ("finetuned", True)])
def test_kept_blocks_stay_the_sources_unless_fine_tuned(place, kept, moved):
    """After retraining the last block, the first convolution is bit by bit the source's, or has moved a little."""
    context = place()
    model = target(1, kept=kept)
    run_training(model, context, suite="demo")
    before, after = (context.store.weights(m.digest) for m in (model.source, model))
    assert torch.equal(before["0.weight"], after["0.weight"]) != moved
    assert torch.equal(before["1.running_mean"], after["1.running_mean"]) != moved
    torch.testing.assert_close(before["0.weight"], after["0.weight"], rtol=0, atol=0.01)
    assert after["8.weight"].shape == (4, 24)


def test_frozen_blocks_drift_where_the_thesis_lets_them(place):
    """In training mode the frozen batch norm's statistics leave the source's, and its weights stay."""
    context, model = place(), target(1, kept_statistics="train")
    run_training(model, context, suite="demo")
    before, after = (context.store.weights(m.digest) for m in (model.source, model))
    assert not torch.equal(before["1.running_mean"], after["1.running_mean"])
    assert torch.equal(before["1.weight"], after["1.weight"])


def test_one_of_the_studys_networks_on_drawn_characters(place, ran):
    """cnn7 from ten digits to 47 characters: sizes as in the study, one training each."""
    digits, characters = (Dataset(name=name, train=90, test=12) for name in ("glyphs10", "glyphs47"))
    first = Model(architecture="cnn7", dataset=digits, recipe=replace(RECIPE, batch_size=64))
    second = replace(first, dataset=characters, source=first, transfer=Transfer(k=2))
    record = run_estimate(second, replace(ESTIMATE, images=6), place(), suite="demo")
    assert ran == ["train", "train", "estimate"]
    assert (record.model.parameters, record.model.blocks, record.model.trainable) == (319_639, 7, 40_200 + 9_447)
    assert (record.data.train, record.data.validation, record.data.test) == (72, 18, 6)


def test_a_checkpoint_is_a_source_without_training(place, ran, tmp_path):
    """Its weights, body. before their names or not, are stored as they are; only the transfer is trained."""
    network = build("own_networks:small", classes=3, shape=(1, 8, 8), seed=5)
    save_file({f"body.{name}": value for name, value in weights(network).items()}, tmp_path / "mine.safetensors")
    mine = Model(
        architecture="own_networks:small",
        dataset=Dataset(name="near"),
        checkpoint=Checkpoint(path=str(tmp_path / "mine.safetensors")),
    )
    context = place()
    record = run_estimate(target(1, of=mine), ESTIMATE, context, suite="demo")
    assert ran == ["train", "estimate"]
    assert record.model.source_method == "checkpoint"
    stored = context.store.weights(mine.digest)
    assert all(torch.equal(value, stored[name]) for name, value in weights(network).items())
    kept = context.store.weights(target(1, of=mine).digest)
    assert torch.equal(kept["4.weight"], stored["4.weight"])

    trained = run_training(mine, context, suite="demo")
    _, validation = robbench.data.training_parts(mine.dataset, load(Dataset(name="near"), context.data), context.device)
    assert trained.training.epochs == []
    assert (trained.training.best, trained.training.forward, trained.training.backward) == (0, 12, 0)
    assert trained.training.validation == validate(network, RECIPE, validation, seed=0)[0]
    assert trained.model.method == "checkpoint"
