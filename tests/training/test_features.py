"""Features of frozen blocks: when they are kept, and that retraining on them is retraining the whole network."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from loops import finish, same
from torch import nn

import robbench.training.features
from robbench.data import Images
from robbench.machine.timing import Stopwatch
from robbench.models import build, place, weights
from robbench.spec import PGD, Recipe
from robbench.training import Trainer, TrainingData
from robbench.training.features import extract, frozen_part, worth_keeping
from robbench.training.transfer import parameter_groups, transfer

RECIPE = Recipe(optimiser="adam", learning_rate=1e-3, weight_decay=1e-4, batch_size=16, epochs=2)
SHAPES = {"cnn7": (1, 28, 28), "cnn_dropout": (1, 28, 28), "wrn10_1": (3, 16, 16), "resnet18": (3, 8, 8)}


def drawn(shape, count=40, classes=5, seed=0):
    """Random images, of which the class is the brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 60, (count, *shape), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    return Images(images.to(torch.uint8), labels)


def ready(architecture, k, head="linear"):
    """A transferred network whose batch norms have seen something."""
    source = build(architecture, classes=10, shape=SHAPES[architecture], seed=1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        source.train()(torch.rand(8, *SHAPES[architecture]))
    return transfer(source.eval(), k=k, classes=5, head=head, seed=2)


def retraining(architecture, k, head="linear", *, recipe=RECIPE, augmentation="none", still=True):
    """A trainer of the last blocks, and its network, whose layers are those of the CPU."""
    made = ready(architecture, k, head)
    trainer = Trainer(
        place(made.network, torch.device("cpu")),
        recipe,
        TrainingData(drawn(SHAPES[architecture]), drawn(SHAPES[architecture], 20, seed=1), augmentation),
        stopwatch=Stopwatch(torch.device("cpu")),
        groups=parameter_groups(made, 1.0),
        frozen=made.kept if still else (),
        seed=3,
    )
    return trainer, made.network


@pytest.fixture
def extracted(monkeypatch):
    """Numbers of images whose features were computed."""
    counted = []

    def counting(part, images, batches):
        counted.append(len(images))
        return extract(part, images, batches)

    monkeypatch.setattr(robbench.training.features, "extract", counting)
    return counted


@pytest.mark.parametrize(
    ("architecture", "k", "head"),
    [("cnn7", 4, "linear"), ("cnn_dropout", 2, "linear"), ("wrn10_1", 2, "linear"), ("resnet18", 1, "mlp1")],
)
def test_retraining_on_features_is_retraining_the_network(architecture, k, head, extracted, monkeypatch):
    """Same weights and history to float rounding, dropout and batch norm of the retrained blocks included.

    By SGD: Adam makes a whole step of a gradient that is nothing but rounding.
    """
    recipe = dataclasses.replace(RECIPE, optimiser="sgd", learning_rate=0.05)
    trainer, ours = retraining(architecture, k, head, recipe=recipe)
    history = finish(trainer).epochs
    assert extracted == [40, 20]
    monkeypatch.setattr(robbench.training.features, "MEMORY_SHARE", 0.0)
    trainer, plain = retraining(architecture, k, head, recipe=recipe)
    expected = finish(trainer).epochs
    assert extracted == [40, 20]
    for name, value in weights(plain).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert [epoch.loss for epoch in history] == pytest.approx([epoch.loss for epoch in expected], rel=1e-4)
    assert [epoch.validation for epoch in history] == [epoch.validation for epoch in expected]


@pytest.mark.parametrize("kept", [True, False])
def test_a_resumed_run_keeps_features_where_it_did_before(kept, extracted, monkeypatch):
    """Whatever memory is free by then: both ways differ by rounding, and the end must be the same bits."""
    saved = []
    monkeypatch.setattr(robbench.training.features, "worth_keeping", lambda *given: kept)
    trainer, whole = retraining("cnn7", 3)
    finish(trainer, saved)
    monkeypatch.setattr(robbench.training.features, "worth_keeping", lambda *given: not kept)
    extracted.clear()
    trainer, resumed = retraining("cnn7", 3)
    trainer.load_state_dict(saved[0])
    finish(trainer)
    assert extracted == ([40, 20] if kept else [])
    assert same(weights(resumed), weights(whole))


@pytest.mark.parametrize(
    "options",
    [
        {"augmentation": "crop-flip"},
        {"recipe": dataclasses.replace(RECIPE, epochs=1, attack=PGD(epsilon=0.1, steps=1))},
        {"still": False},
    ],
    ids=["augmented", "adversarial", "drifting"],
)
def test_where_the_kept_blocks_see_something_new_nothing_is_reused(options, extracted):
    """Augmented or attacked images, and kept blocks in training mode, pass the whole network."""
    finish(retraining("wrn10_1", 2, **options)[0])
    assert extracted == []


def test_without_frozen_parameters_in_a_sequence_there_is_no_frozen_part():
    """A network that is retrained whole has none, and another body than a sequence cannot be cut."""
    whole = ready("wrn10_1", 5)
    assert frozen_part(whole.network, whole.kept) is None
    some = ready("wrn10_1", 1)
    some.network.body = nn.ModuleList(some.network.body)
    assert frozen_part(some.network, some.kept) is None


def test_a_given_layer_that_learns_or_looks_at_its_batch_is_not_frozen():
    """Parameters that require a gradient, and batch norms without statistics of their own, change from epoch to epoch."""
    network = build("cnn7", classes=5, shape=(1, 28, 28)).requires_grad_(False)
    network.body.fc3.requires_grad_(True)
    given = list(network.body)[:-1]
    assert len(frozen_part(network, given)[1]) == 1
    network.body.conv3.requires_grad_(True)
    assert next(iter(frozen_part(network, given)[1])) is network.body.conv3
    network.body.conv2 = nn.BatchNorm2d(32, affine=False, track_running_stats=False)
    assert next(iter(frozen_part(network, list(network.body)[:-1])[1])) is network.body.conv2


def test_features_are_kept_up_to_a_share_of_the_free_memory(monkeypatch):
    """Of 1,000 free bytes a quarter: 62 floats, so 31 images of two features, and no more."""
    monkeypatch.setattr(robbench.training.features, "free_bytes", lambda device: 1_000)
    part = nn.Sequential(nn.Flatten(), nn.Linear(400, 2))
    example = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    assert worth_keeping(part, 31, example)
    assert not worth_keeping(part, 32, example)


@pytest.mark.parametrize(
    ("architecture", "k", "pays"),
    [("cnn7", 6, False), ("cnn7", 5, True), ("cnn7", 1, True), ("cnn_dropout", 3, False), ("wrn10_1", 4, False)],
)
def test_features_that_save_little_for_their_size_are_not_kept(architecture, k, pays):
    """A first convolution makes dozens of values of every pixel with a handful of products for each."""
    made = ready(architecture, k)
    frozen, _ = frozen_part(made.network.eval(), made.kept)
    assert worth_keeping(frozen, 1, drawn(SHAPES[architecture], 1).images) == pays
