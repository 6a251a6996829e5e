"""Learning without forgetting: its loss by hand, its two phases, and what it keeps."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from formulas import ce, slope
from loops import finish, parameters, same
from torch import nn

from robbench.data import Images
from robbench.machine.timing import Stopwatch
from robbench.models import Network, build, place
from robbench.models.network import layers
from robbench.spec import CrossEntropy, LwF, Recipe
from robbench.training import Batch, Trainer, TrainingData, loss_function
from robbench.training.lwf import Penultimate
from robbench.training.transfer import parameter_groups, transfer

RECIPE = Recipe(
    optimiser="sgd", learning_rate=0.1, weight_decay=1e-4, batch_size=8, epochs=4, objective=LwF(), kept_epoch="last"
)
SHAPES = {"cnn7": (1, 28, 28), "wrn10_1": (3, 8, 8)}


def drawn(shape, count=24, classes=5, seed=0):
    """Random images, of which the class is the brightness."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    images = torch.randint(0, 60, (count, *shape), generator=generator) + 40 * labels.view(-1, 1, 1, 1)
    return Images(images.to(torch.uint8), labels)


def retraining(architecture, recipe=RECIPE, *, head="linear", kept="finetuned", scale=0.1, augmentation="none"):
    """The source's network, a trainer of its transfer with LwF's groups, and the transferred network."""
    source = build(architecture, classes=10, shape=SHAPES[architecture], seed=1).eval()
    made = transfer(source, k=1, classes=5, head=head, kept=kept, seed=2)
    share = recipe.objective.head_share if isinstance(recipe.objective, LwF) else 0.0
    trainer = Trainer(
        place(made.network, torch.device("cpu")),
        recipe,
        TrainingData(drawn(SHAPES[architecture]), drawn(SHAPES[architecture], 10, seed=1), augmentation),
        stopwatch=Stopwatch(torch.device("cpu")),
        groups=parameter_groups(made, scale, share * recipe.epochs),
        frozen=made.kept,
        parents={"source": place(source, torch.device("cpu"))},
        seed=3,
    )
    return source, trainer, made.network


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("penalty", [0.0, 0.3])
def test_the_loss_is_its_formula(norm, penalty):
    """CE + λ · the mean over images of ‖z − z₀‖ between the inputs of the head; value and gradient in float64."""
    generator = torch.Generator().manual_seed(0)
    images, before = (torch.randn(6, 3, generator=generator) for _ in range(2))
    labels, order = torch.arange(6) % 2, 1 if norm == "l1" else 2
    body = layers(first=nn.Linear(3, 3, bias=False), fc=nn.Linear(3, 2, bias=False))
    student = Network(body, architecture="two", shape=(1, 1, 3), head="fc")
    loss = loss_function(LwF(penalty=penalty, norm=norm), student, {"source": copy.deepcopy(student)})

    def formula(first, head):
        features = images.double().numpy() @ first.T
        apart = np.linalg.norm(features - before.double().numpy(), ord=order, axis=1)
        return ce(features @ head.T, labels) + penalty * apart.mean()

    value, logits = loss(Batch(images, images, labels, reference=before))
    value.backward()
    exact = [weight.detach().double().numpy() for weight in student.parameters()]
    assert value.item() == pytest.approx(formula(*exact), rel=1e-5)
    assert torch.equal(logits, student(images))
    for number, weight in enumerate(student.parameters()):
        np.testing.assert_allclose(weight.grad.numpy(), slope(formula, exact, number), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "mlp1"])
@pytest.mark.parametrize("architecture", SHAPES)
def test_features_are_those_of_the_whole_head(architecture, head):
    """What a linear head, or the first layer of an MLP head, multiplies; in the layers of the CPU, too."""
    source, _, network = retraining(architecture, head=head)
    images, first = torch.rand(4, *SHAPES[architecture]), network.head_layers[0]
    with torch.no_grad():
        features = Penultimate(network.eval())(images)
        assert features.shape == (4, first.in_features)
        torch.testing.assert_close(features, Penultimate(source)(images))
        if head == "linear":
            torch.testing.assert_close(first(features), network(images))


def test_the_head_learns_alone_and_then_everything_at_the_lower_rate():
    """Halfway the kept blocks are bit by bit the source's; at the end they have moved. Batch norm's statistics stay."""
    _, trainer, network = retraining("wrn10_1")
    kept = {name for name in parameters(network) if not name.startswith(f"body.{network.head}")}
    start, statistics = parameters(network), dict(network.named_buffers())
    statistics = {name: value.clone() for name, value in statistics.items()}
    for _ in range(2):
        trainer.step()
    halfway = parameters(network)
    assert {name for name in start if torch.equal(start[name], halfway[name])} == kept
    assert [group["lr"] for group in trainer._optimiser.param_groups] == pytest.approx([0.1, 0.0])
    finish(trainer)
    after = parameters(network)
    assert all(not torch.equal(halfway[name], after[name]) for name in start)
    assert [group["lr"] for group in trainer._optimiser.param_groups] == pytest.approx([0.01, 0.01])
    assert same(statistics, dict(network.named_buffers()))


@pytest.mark.parametrize("head", ["linear", "mlp1"])
def test_without_a_penalty_it_is_conventional_fine_tuning(head):
    """λ = 0 and no phase of the head ends bit by bit where cross-entropy with the same groups ends."""
    ended = []
    for objective in (LwF(penalty=0.0, head_share=0.0), CrossEntropy()):
        _, trainer, network = retraining("wrn10_1", replace(RECIPE, objective=objective), head=head)
        finish(trainer)
        ended.append(parameters(network))
    assert same(*ended)


@pytest.mark.parametrize("augmentation", ["none", "crop-flip"])
def test_a_penalty_keeps_the_features(augmentation):
    """The student's features stay near the source's, which they leave without one."""
    images, apart = drawn((3, 8, 8), seed=2).images.float() / 255, []
    for penalty in (0.0, 0.1):
        spec = replace(RECIPE, objective=LwF(penalty=penalty), epochs=8, batch_size=4)
        source, trainer, network = retraining("wrn10_1", spec, scale=1.0, augmentation=augmentation)
        finish(trainer)
        with torch.no_grad():
            apart.append((Penultimate(network.eval())(images) - Penultimate(source)(images)).abs().mean().item())
    assert apart[1] < 0.3 * apart[0]


def test_the_sources_features_are_computed_once(monkeypatch):
    """Of every image, before the first epoch; and a warm-up's batch."""
    source, trainer, _ = retraining("wrn10_1")
    seen = []
    source.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    finish(trainer)
    assert sum(seen) == 24 + 8


def test_a_resumed_training_ends_as_if_it_had_not_stopped():
    """In whichever phase it stopped: the kept blocks have moments from the second one on."""
    spec = replace(RECIPE, momentum=0.9)
    _, whole, network = retraining("wrn10_1", spec)
    saved = []
    finish(whole, saved)
    for state in saved[:3]:
        _, resumed, other = retraining("wrn10_1", spec)
        resumed.load_state_dict(state)
        finish(resumed)
        assert same(parameters(other), parameters(network))
