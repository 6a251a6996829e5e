"""TWINS: its loss by hand, and whose statistics stay."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from robbench.errors import RobbenchError
from robbench.spec import TWINS
from robbench.training import Batch, loss_function


def network(seed):
    """A linear layer and a batch norm with statistics of its own, in float64."""
    torch.manual_seed(seed)
    made = nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3)).double()
    made[2].running_mean.copy_(torch.rand(3))
    made[2].running_var.copy_(torch.rand(3) + 0.5)
    return made


@pytest.mark.parametrize("weight", [0.0, 0.7])
def test_the_loss_is_its_formula(weight):
    """CE of the last three images by their statistics + weight · CE of the first two by the source's, and its gradient."""
    student, source = network(0), network(1).eval()
    images, labels = torch.rand(5, 1, 2, 2, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1])
    linear, norm = copy.deepcopy(student[1]), copy.deepcopy(student[2])
    features = linear(images.flatten(1))
    means, variances = features[2:].mean(0), features[2:].var(0, unbiased=False)

    def cost(part, mean, variance):
        return F.cross_entropy((features[part] - mean) / (variance + norm.eps).sqrt(), labels[part])

    frozen = cost(slice(2), source[2].running_mean, source[2].running_var)
    by_hand = cost(slice(2, 5), means, variances) + weight * frozen
    batch = Batch(torch.zeros_like(images), images, labels)
    value, logits = loss_function(TWINS(weight=weight), student.train(), {"source": source})(batch)
    assert len(logits) == len(labels)
    expected = torch.autograd.grad(by_hand, linear.weight)[0]
    assert value.item() == pytest.approx(by_hand.item(), rel=1e-6)
    assert torch.allclose(torch.autograd.grad(value, student[1].weight)[0], expected, rtol=1e-5)


def test_the_students_statistics_follow_its_own_branch_and_the_sources_stay():
    """As in one pass of its half of the batch in training mode; modes are as they were."""
    student, source = network(0), network(1).eval()
    before, alone = copy.deepcopy(source.state_dict()), copy.deepcopy(student).train()
    images = torch.rand(5, 1, 2, 2, dtype=torch.float64)
    alone(images[2:])
    loss_function(TWINS(), student.train(), {"source": source})(
        Batch(images, images, torch.zeros(5, dtype=torch.int64))
    )
    assert torch.allclose(student[2].running_mean, alone[2].running_mean)
    assert torch.allclose(student[2].running_var, alone[2].running_var)
    assert student[2].training
    assert all(torch.equal(value, before[name]) for name, value in source.state_dict().items())


def test_a_network_without_batch_norm_is_refused():
    """The two branches would be one."""
    with pytest.raises(RobbenchError, match="TWINS: expected a network with batch norm"):
        loss_function(TWINS(), nn.Linear(2, 2), {"source": nn.Linear(2, 2)})
