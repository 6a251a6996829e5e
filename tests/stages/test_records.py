"""Stages end to end on tiny networks: what is recorded, and what is stored."""

from __future__ import annotations

import sys
from dataclasses import replace

import msgspec
import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import ESTIMATE, FOOLING, RECIPE, comparable, estimate, small, source, target, train, write_images

from robbench.data import load_data, training_parts
from robbench.errors import RobbenchError
from robbench.models import build, weights
from robbench.record import MISCLASSIFIED
from robbench.report.bundle import Bundle, encode_bundle
from robbench.spec import PGD, Checkpoint, Dataset, Model, Transfer
from robbench.stages import Task
from robbench.stages.networks import load_network
from robbench.training.updates import validate
from robbench.verify.verification import verify


def own_weights(tmp_path, **network):
    """A model that is a user's file of weights."""
    path = tmp_path / "mine.safetensors"
    save_file(weights(build(**network, seed=5)), path)
    return Model(
        architecture=network["architecture"],
        dataset=Dataset(name="near"),
        checkpoint=Checkpoint(path=str(path), mean=0, std=1),
    )


def test_records_name_model_data_and_source(new_run):
    """Of a transfer's training and p*."""
    context, model = new_run(), target(1)
    trained, tested = train(model, context), estimate(model, context)
    facts = tested.model
    assert (facts.method, facts.source, facts.source_method, facts.k, facts.blocks) == ("transfer", "near", "pgd", 1, 4)
    assert (facts.source_case, facts.trainable) == (source().id, 4 * 24 + 4)
    assert (tested.case, tested.stage, tested.digest) == (
        model.id,
        "robustness",
        Task("robustness", model, ESTIMATE).digest,
    )
    assert (trained.data.name, trained.data.train, trained.data.validation, trained.data.test) == ("far", 48, 12, 30)
    assert (tested.data.test, len(tested.robustness.pstar)) == (20, 20)
    assert train(source(), context).training.robust is not None
    assert trained.training.robust is None
    assert (tested.seconds.estimation > 0, tested.seconds.training) == (True, 0)


def test_models_of_one_seed_are_tested_on_the_same_images_and_of_another_on_others(new_run):
    """So that models can be held to each other image by image, and seeds differ in their images, too."""
    context, peer = new_run(), replace(source(), recipe=RECIPE)
    models = [source(), peer, replace(source(), seed=1), replace(peer, seed=1)]
    drawn = [estimate(model, context).robustness.images for model in models]
    assert drawn[0] == drawn[1] != drawn[2] == drawn[3]


def test_the_stored_model_is_the_one_that_was_judged(new_run):
    """The network read back has the recorded validation accuracy, and is right on the images that have a p*."""
    context, model = new_run(), source()
    trained, robustness = train(model, context), estimate(model, context).robustness
    network = load_network(model, context, context.store.finished(trained.key))
    data = load_data(model.dataset, context.data, download=False)
    _, validation = training_parts(model.dataset, data, context.device)
    assert validate(network, RECIPE, validation, seed=0)[0] == trained.training.validation
    test = data.test.take(torch.tensor(robustness.images))
    right = network(test.images.float() / 255).argmax(1) == test.labels
    assert [index != MISCLASSIFIED for index in robustness.pstar] == right.tolist()
    assert 0 < sum(right) < 20


@pytest.mark.parametrize(
    ("changes", "moved"),
    [
        ({}, ()),
        ({"kept": "finetuned"}, ("0.weight", "1.running_mean")),
        ({"kept_statistics": "train"}, ("1.running_mean",)),
    ],
)
def test_kept_blocks_stay_the_sources_unless_the_transfer_says_otherwise(new_run, changes, moved):
    """Frozen: bit by bit the source's; fine-tuned: moved a little; with the thesis's statistics: those drift."""
    context, model = new_run(), target(1, **changes)
    before, after = (
        context.store.weights(context.store.finished(train(m, context).key)) for m in (model.source, model)
    )
    for name in ("0.weight", "1.weight", "1.running_mean"):
        assert torch.equal(before[name], after[name]) != (name in moved or (name == "1.weight" and "0.weight" in moved))
    torch.testing.assert_close(before["0.weight"], after["0.weight"], rtol=0, atol=0.01)
    assert after["8.weight"].shape == (4, 24)


def test_warm_retraining_goes_on_from_the_sources_weights(new_run):
    """What is not reset learns at the full rate from the source's values; batch-norm statistics are the target's."""
    context, moved = new_run(), {}
    for rate in (1e-4, 0.05):
        model = target(1, recipe=replace(RECIPE, learning_rate=rate, weight_decay=0.0), kept="warm")
        record = train(model, context)
        before, after = (
            context.store.weights(context.store.finished(train(m, context).key)) for m in (model.source, model)
        )
        moved[rate] = {name: float((after[name] - before[name]).abs().max()) for name in before if name[0] != "8"}
    assert record.model.trainable == record.model.parameters
    for name in ("0.weight", "1.weight", "1.bias", "4.weight", "4.bias"):
        assert 0 < moved[1e-4][name] < 1e-4 < 1e-3 < moved[0.05][name]
    assert moved[1e-4]["1.running_mean"] > 1e-3


def test_one_of_the_studys_networks_on_drawn_characters(new_run, made):
    """cnn7 from ten digits to 47 characters: sizes as in the study, one training each."""
    digits, characters = (Dataset(name=name, train=90, test=12) for name in ("glyphs10", "glyphs47"))
    first = Model(architecture="cnn7", dataset=digits, recipe=replace(RECIPE, batch_size=64))
    second = replace(first, dataset=characters, source=first, transfer=Transfer(k=2))
    record = estimate(second, new_run(), replace(ESTIMATE, images=6))
    assert made == ["training", "training", "robustness"]
    assert (record.model.parameters, record.model.blocks, record.model.trainable) == (319_639, 7, 40_200 + 9_447)
    assert (record.data.train, record.data.validation, record.data.test) == (72, 18, 6)


def test_a_checkpoint_is_a_source_without_training(new_run, tmp_path):
    """Its weights are stored as they are, and its validation accuracy is taken."""
    mine = own_weights(tmp_path, architecture="own_networks:small", classes=3, shape=(1, 8, 8))
    context = new_run()
    record, trained = train(target(1, of=mine), context), train(mine, context)
    assert (record.model.source_method, trained.model.method) == ("checkpoint", "checkpoint")
    before, after = (
        context.store.weights(context.store.finished(trained.key)),
        context.store.weights(context.store.finished(record.key)),
    )
    assert torch.equal(before["4.weight"], after["4.weight"])
    assert trained.training.epochs == []
    assert (trained.training.best, trained.training.forward, trained.training.backward) == (0, 12, 0)
    _, validation = training_parts(mine.dataset, load_data(mine.dataset, context.data, download=False), context.device)
    network = load_network(mine, context, context.store.finished(trained.key))
    assert trained.training.validation == validate(network, RECIPE, validation, seed=0)[0]


def test_a_checkpoint_without_its_data_is_a_source_too(new_run, made, tmp_path):
    """It may have other classes than the target; its blocks are kept bit by bit, and it has no stage of its own."""
    mine = own_weights(tmp_path, architecture="own_networks:small", classes=7, shape=(1, 8, 8))
    context = new_run()
    model = replace(target(1), source=mine.checkpoint)
    record = estimate(model, context)
    assert made == ["training", "robustness"]
    assert (record.model.source_method, record.model.source, record.model.source_case) == ("checkpoint", None, None)
    kept = context.store.weights(context.store.finished(train(model, context).key))
    before = load_file(mine.checkpoint.path)
    assert {name: torch.equal(kept[name], before[name]) for name in ("0.weight", "4.weight")} == {
        "0.weight": True,
        "4.weight": True,
    }
    assert kept["8.weight"].shape == (4, 24)
    bundle = Bundle(title="", command="", records=[train(model, context), record])
    (tmp_path / "records.json").write_bytes(encode_bundle(bundle))
    found = verify(tmp_path / "records.json", context, ["own_networks"])
    assert [finding.mark for finding in found] == ["proven", "agrees"]


def test_a_network_that_its_function_builds_with_weights_needs_no_checkpoint(new_run, made, monkeypatch):
    """They are part of the key: other weights are another model. One whose weights are drawn anew is refused."""
    trained = build("own_networks:small", classes=3, shape=(1, 8, 8), seed=5).body

    def robust(classes, shape):
        network = small(classes, shape)
        network.load_state_dict(trained.state_dict())
        return network

    monkeypatch.setattr(sys.modules["own_networks"], "robust", robust, raising=False)
    context, model = new_run(), Model(architecture="own_networks:robust", dataset=Dataset(name="near"))
    record = estimate(model, context)
    kept = context.store.weights(context.store.finished(train(model, context).key))
    assert all(torch.equal(kept[name], value) for name, value in trained.state_dict().items())
    assert (record.model.method, made) == ("checkpoint", ["training", "robustness"])
    with torch.no_grad():
        trained[8].bias.add_(1.0)
    assert estimate(model, new_run()).key != record.key
    assert made == ["training", "robustness"] * 2
    with pytest.raises(RobbenchError, match="own_networks:small: expected the same weights at every call"):
        estimate(replace(model, architecture="own_networks:small"), context)


def test_a_checkpoint_whose_logits_are_not_finite_has_no_accuracy(new_run, tmp_path):
    """Its weights are finite; fused layers, whose ReLU makes 0 of NaN, would hide what its logits are."""
    network = build("cnn7", classes=3, shape=(1, 28, 28), seed=0)
    with torch.no_grad():
        for layer in (network.body.conv1, network.body.conv2):
            layer.weight.mul_(1e25)
    save_file(weights(network), tmp_path / "mine.safetensors")
    context = new_run()
    write_images(context.data, "large", side=28)
    checkpoint = Checkpoint(tmp_path / "mine.safetensors", mean=0, std=1)
    with pytest.raises(RobbenchError, match="logits are not finite on unperturbed validation images"):
        train(Model(architecture="cnn7", dataset=Dataset(name="large"), checkpoint=checkpoint), context)


def test_fixed_radii_are_attacked_on_the_images_of_the_search(new_run):
    """Their seconds are validation, not estimation; without them nothing else differs."""
    attacks = tuple(PGD(epsilon=e, steps=steps, random_start=False) for e in (0.02, 0.1, 0.3) for steps in (1, 3))
    tested = estimate(source(), new_run(), replace(ESTIMATE, final_test=attacks))
    plain = estimate(source(), new_run(), ESTIMATE)
    assert msgspec.structs.replace(tested.robustness, attacks=[]) == plain.robustness
    found = [(entry.attack, entry.epsilon, entry.steps) for entry in tested.robustness.attacks]
    assert found == [("pgd" if attack.steps > 1 else "fgsm", attack.epsilon, attack.steps) for attack in attacks]
    robust = [entry.robust.correct for entry in tested.robustness.attacks]
    assert max(robust) <= tested.robustness.clean.correct
    assert robust[1::2] == sorted(robust[1::2], reverse=True)


@pytest.mark.parametrize("search", ["reference", "fast"])
def test_keeping_counterexamples_changes_no_result(new_run, search):
    """What is kept is one image for each p*, inside its ball, that the stored model misjudges."""
    spec = replace(FOOLING, search=search)
    context = new_run(keep_adversarials=True)
    record = estimate(source(), context, spec)
    kept = context.store.adversarials(record.key)
    other = new_run("other")
    assert comparable(estimate(source(), other, spec)) == comparable(record)
    assert other.store.adversarials(record.key) is None
    pairs = zip(record.robustness.images, record.robustness.pstar, strict=True)
    found = [(image, index) for image, index in pairs if 0 <= index < 21]
    assert kept.shape == (len(found), 1, 8, 8)
    assert len(found) > 2
    data = load_data(source().dataset, context.data, download=False)
    test = data.test.take(torch.tensor([image for image, _ in found]))
    distance = (kept - test.images.float() / 255).abs().flatten(1).amax(1)
    assert (distance <= torch.tensor([record.robustness.grid[index] for _, index in found]) + 1e-6).all()
    with torch.no_grad():
        network = load_network(source(), context, context.store.finished(train(source(), context).key))
        assert (network(kept).argmax(1) != test.labels).all()


@pytest.mark.parametrize("tf32", [None, True])
def test_a_training_says_whether_its_products_were_rounded(new_run, monkeypatch, tf32):
    """As the device has it."""
    monkeypatch.setattr("robbench.training.loop.multiplies_in_tf32", lambda device: tf32)
    assert train(source(), new_run()).training.tf32 is tf32
