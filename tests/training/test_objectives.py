"""A new objective is a spec and a function: nothing else has to know it."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from loops import ADVERSARY, network, problem, recipe, run
from torch import nn

from robbench.errors import RobbenchError
from robbench.spec import CrossEntropy, Objective
from robbench.training import Batch, Loss, loss_function
from robbench.training.objectives import balanced_weights, loss_of


class Imitation(Objective):
    """Cross-entropy on attacked images, and the distance of the clean ones' logits from a teacher's."""

    parents: ClassVar = ("teacher",)
    passes: ClassVar = 2
    weight: float = 1.0


@loss_function.register
def _(objective: Imitation, student, parents):
    def loss(batch):
        logits = student(batch.attacked)
        distance = F.mse_loss(student(batch.clean), batch.reference)
        return F.cross_entropy(logits, batch.labels) + objective.weight * distance, logits

    return Loss(loss, reference=parents["teacher"])


def test_an_objective_of_ones_own_trains_with_its_parents():
    """The student comes near its teacher on clean images; the attack, validation and the rest are the recipe's."""
    teacher = network(seed=9, dropout=0.0).eval()
    before = [value.clone() for value in teacher.state_dict().values()]
    images, distances = problem(30, seed=2).images.float() / 255, []
    for weight in (0.0, 30.0):
        model = network(dropout=0.0)
        spec = recipe(
            optimiser="adam", learning_rate=0.01, epochs=8, attack=ADVERSARY, objective=Imitation(weight=weight)
        )
        result = run(model, spec, problem(60), parents={"teacher": teacher})
        assert result.epochs[-1].loss < result.epochs[0].loss
        distances.append(F.mse_loss(model.eval()(images), teacher(images)).item())
    assert distances[1] < 0.2 * distances[0]
    assert all(torch.equal(*pair) for pair in zip(before, teacher.state_dict().values(), strict=True))


def test_cross_entropy_looks_at_the_attacked_images():
    """Its loss and logits are those of the student, in float32 whatever the logits are."""
    student = nn.Linear(4, 3)
    clean, attacked, labels = torch.zeros(5, 4), torch.rand(5, 4), torch.arange(5) % 3
    batch = Batch(clean, attacked.bfloat16(), labels)
    value, logits = loss_function(CrossEntropy(), student.bfloat16(), {})(batch)
    assert torch.equal(logits, student(attacked.bfloat16()))
    assert torch.equal(value, F.cross_entropy(logits.float(), labels))


def test_an_objective_without_a_loss_is_an_error():
    """The message names its kind."""

    class Unknown(Objective):
        pass

    with pytest.raises(RobbenchError, match="objective: expected a kind with a loss function, got Unknown"):
        run(network(), recipe(objective=Unknown()))


def test_balanced_weights_make_every_class_count_the_same():
    """N ÷ (classes · images of the class); a class without images has none, and is not counted."""
    assert balanced_weights(torch.tensor([0, 0, 0, 2])).tolist() == pytest.approx([4 / 6, 0.0, 4 / 2])


def test_a_weighted_loss_is_the_weighted_mean():
    """Over a batch, by the weights of all training images; logits of classes that no image has are left alone."""
    logits = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    labels, known = torch.tensor([0, 1]), torch.tensor([0, 0, 0, 1])
    loss = loss_of(recipe(class_weights="balanced"), lambda images: logits, {}, known)
    batch = Batch(logits, logits, labels)
    value, given = loss(batch)
    each, weights = F.cross_entropy(logits, labels, reduction="none"), torch.tensor([4 / 6, 4 / 2])
    assert value == pytest.approx(float((weights * each).sum() / weights.sum()))
    assert given is logits
    plain, _ = loss_of(recipe(), lambda images: logits, {}, known)(batch)
    assert plain == pytest.approx(float(each.mean()))
