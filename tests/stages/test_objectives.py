"""Trainings with parents end to end, on drawn characters: from a robust source, and from a teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stages import ADVERSARY, RECIPE, Killed, comparable, estimate, killer, target, train

from robbench.models import build, weights
from robbench.spec import DARD, TWINS, Checkpoint, CrossEntropy, Dataset, LwF, Model, Transfer
from robbench.stages import critical_training
from robbench.stages.networks import load_network
from robbench.training.lwf import Penultimate

NEAR, FAR = (Dataset(name=name, train=120, test=40) for name in ("glyphs10", "glyphs47"))
SOURCE = Model(architecture="cnn7", dataset=NEAR, recipe=replace(RECIPE, attack=ADVERSARY))


def without_forgetting(of=SOURCE, *, penalty=0.005, epochs=2, **changes):
    """A transfer by LwF, with an MLP head, at the full rate so that something moves."""
    return Model(
        architecture="cnn7",
        dataset=FAR,
        recipe=replace(RECIPE, objective=LwF(penalty=penalty), epochs=epochs, kept_epoch="last"),
        transfer=Transfer(k=1, head="mlp1", kept="finetuned", kept_scale=1.0),
        source=of,
        **changes,
    )


def test_learning_without_forgetting_end_to_end(new_run):
    """The head is new, the kept blocks moved, less so with a penalty; p* follows, and the record says what it was."""
    context, apart = new_run(), []
    start = load_network(SOURCE, context, context.store.finished(train(SOURCE, context).key))
    for penalty in (0.0, 0.1):
        model = without_forgetting(penalty=penalty)
        record = train(model, context)
        network = load_network(model, context, context.store.finished(record.key))
        images = context.images(FAR).test.take(torch.arange(20)).images.float() / 255
        with torch.no_grad():
            apart.append((Penultimate(network)(images) - Penultimate(start)(images)).abs().mean().item())
    assert 0 < apart[1] < 0.7 * apart[0]
    assert (record.model.objective, record.model.kept, record.case) == (
        "lwf",
        "finetuned",
        "cnn7-glyphs47-TL1-mlp1-finetuned-lwf",
    )
    assert estimate(model, context).robustness.clean.total == 20


LORA = Model(
    architecture="cnn7",
    dataset=FAR,
    recipe=replace(RECIPE, epochs=2, kept_epoch="last"),
    transfer=Transfer(k=1, kept="lora", rank=2),
    source=SOURCE,
)


@pytest.mark.parametrize(("model", "call"), [(without_forgetting(), 3), (without_forgetting(), 7), (LORA, 12)], ids=str)
def test_it_goes_on_after_a_kill(new_run, model, call):
    """In either phase of LwF, and with branches: the same record and weights."""
    whole = new_run("whole")
    expected = train(model, whole)
    with pytest.raises(Killed):
        train(model, new_run(show=killer(f"training of {model.id}", call)))
    second = new_run()
    record = train(model, second)
    assert comparable(record) == comparable(expected)
    one, other = (context.store.weights(context.store.finished(record.key)) for context in (whole, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_the_source_may_be_a_checkpoint_by_itself(new_run, tmp_path):
    """Its features are those of the file's network."""
    torch.save(weights(build("cnn7", classes=10, shape=(1, 28, 28), seed=5)), path := tmp_path / "mine.pt")
    record = train(without_forgetting(Checkpoint(path, mean=0, std=1)), new_run())
    assert (record.model.source_method, record.model.objective) == ("checkpoint", "lwf")


def test_a_teacher_may_be_a_checkpoint_of_another_architecture(new_run, tmp_path):
    """The student of a file's network, which is itself a model of the study; other weights make another student."""
    context, ended = new_run(), []
    for seed in (5, 6):
        path = tmp_path / f"{seed}.pt"
        torch.save(weights(build("relu_4_1024", classes=10, shape=(1, 28, 28), seed=seed)), path)
        teacher = Model(architecture="relu_4_1024", dataset=NEAR, checkpoint=Checkpoint(path, mean=0, std=1))
        recipe = replace(RECIPE, attack=ADVERSARY, objective=DARD())
        record = train(Model(architecture="cnn7", dataset=NEAR, recipe=recipe, teacher=teacher), context)
        assert record.model.method == "dard"
        ended.append(context.store.weights(context.store.finished(record.key)))
    assert not all(torch.equal(value, ended[1][name]) for name, value in ended[0].items())


def test_twins_end_to_end(new_run):
    """The whole network learns, otherwise than by plain adversarial retraining; the record says by what."""
    context, ended = new_run(), []
    for objective in (CrossEntropy(), TWINS()):
        record = train(target(1, recipe=replace(RECIPE, attack=ADVERSARY, objective=objective), kept="warm"), context)
        ended.append(context.store.weights(context.store.finished(record.key)))
    assert record.case == "own_networks.small-far-TL1-adversarial-warm-twins"
    assert not any(torch.equal(value, ended[1][name]) for name, value in ended[0].items() if "weight" in name)


def test_low_rank_branches_end_up_in_the_weights(new_run):
    """The stored network has the plain layers, all of them other than the source's, with the source's biases."""
    context = new_run()
    start = context.store.weights(context.store.finished(train(SOURCE, context).key))
    record = train(LORA, context)
    after = context.store.weights(context.store.finished(record.key))
    moved = {name for name, value in after.items() if not torch.equal(value, start[name])}
    assert moved == {name for name in start if name.endswith("weight")} | {"fc3.bias"}
    assert record.case == "cnn7-glyphs47-TL1-lora"
    assert estimate(LORA, context).robustness.clean.total == 20


RIFT = Model(
    architecture="cnn7",
    dataset=FAR,
    recipe=replace(RECIPE, epochs=4, kept_epoch="last"),
    transfer=Transfer(k=1, kept="critical", kept_scale=1.0),
    source=SOURCE,
)


def test_the_least_critical_block_is_fine_tuned_with_the_head(new_run):
    """Head and one kept block differ from the source's; the record names the block, and counts both halves."""
    context = new_run()
    start = context.store.weights(context.store.finished(train(SOURCE, context).key))
    record = train(RIFT, context)
    after = context.store.weights(context.store.finished(record.key))
    moved = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, start[name])}
    (note,) = [note for note in record.notes if "raise the loss least" in note]
    chosen, back = note.partition("least, ")[2].split()[0], "kept 0%" in note
    assert moved == ({"fc3"} if back else {"fc3", chosen})
    assert [epoch.epoch for epoch in record.result.epochs] == [1, 2, 3, 4]
    assert record.case == "cnn7-glyphs47-TL1-critical"


@pytest.mark.parametrize(("where", "call"), [("criticality", 3), ("fine-tuning", 2), ("interpolate", 1)])
def test_a_critical_training_goes_on_after_a_kill(new_run, monkeypatch, where, call):
    """Between two blocks that are measured, after an epoch that is not saved yet, and before the way back: the same bits."""
    whole = new_run("whole")
    expected = train(RIFT, whole)
    with monkeypatch.context() as patched:
        if where != "fine-tuning":
            left = iter([getattr(critical_training, where)] * (call - 1))
            patched.setattr(critical_training, where, lambda *values, **named: next(left, kill)(*values, **named))
        with pytest.raises(Killed):
            train(RIFT, new_run(show=killer("fine-tuning", call)))
    second, shown = new_run(show=lambda what, *_: shown.append(what)), []
    record = train(RIFT, second)
    assert not any(what.startswith("head of") for what in shown)
    assert comparable(record) == comparable(expected)
    one, other = (context.store.weights(context.store.finished(record.key)) for context in (whole, second))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def kill(*_, **__):
    """The process is killed here."""
    raise Killed
