"""Heads: sizes, layers, and what stays as it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from robbench.errors import RobbenchError
from robbench.models import blocks, build, parameter_count, replace_head, weights


def cnn7(**options):
    """The smallest of the study's networks."""
    return build("cnn7", classes=10, shape=(1, 28, 28), **options)


@pytest.mark.parametrize("hidden", [1, 2, 3])
def test_an_mlp_head_has_hidden_layers_of_2048(hidden):
    """Linear, batch norm, ReLU and dropout 0.25 for each, then the logits."""
    network = cnn7()
    replace_head(network, 47, f"mlp{hidden}")
    head = network.body.fc3
    assert [type(layer) for layer in head] == [*[nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout] * hidden, nn.Linear]
    assert {layer.p for layer in head if isinstance(layer, nn.Dropout)} == {0.25}
    expected = (200 * 2048 + 2048) + (hidden - 1) * (2048 * 2048 + 2048) + hidden * 2 * 2048 + (2048 * 47 + 47)
    assert parameter_count(head) == expected
    assert network(torch.rand(2, 1, 28, 28)).shape == (2, 47)


def test_a_new_head_is_the_last_block_and_can_be_replaced_again():
    """Names and number of blocks stay, so k means the same, and the input features are those of the first head."""
    network = cnn7()
    names = [block.name for block in blocks(network)]
    for head in ("mlp2", "mlp1", "linear"):
        replace_head(network, 47, head)
        assert [block.name for block in blocks(network)] == names
        assert [id(p) for p in blocks(network)[-1].parameters()] == [id(p) for p in network.body.fc3.parameters()]
    assert parameter_count(network) == 319_639


def test_only_the_head_changes_and_its_seed_decides():
    """Every other tensor stays; two seeds differ, the global generator does not move."""
    network = cnn7()
    before = weights(network)
    state = torch.get_rng_state()
    made = []
    for seed in (1, 1, 2):
        replace_head(network, 10, seed=seed)
        made.append(weights(network))
    assert torch.equal(torch.get_rng_state(), state)
    assert {key for key in before if not torch.equal(before[key], made[0][key])} == {"fc3.weight", "fc3.bias"}
    assert torch.equal(made[0]["fc3.weight"], made[1]["fc3.weight"])
    assert not torch.equal(made[0]["fc3.weight"], made[2]["fc3.weight"])


def test_the_head_takes_after_the_network():
    """The dtype and the absence of a bias are those of the head before it."""
    network = cnn7().to(torch.float64)
    network.body.fc3 = nn.Linear(200, 10, bias=False, dtype=torch.float64)
    replace_head(network, 5)
    assert (network.body.fc3.weight.dtype, network.body.fc3.bias) == (torch.float64, None)


def test_a_head_inside_a_container_is_replaced_there():
    """In timm the head of a ConvNeXt is head.fc, and the network counts its classes itself."""
    network = build("timm:convnext_atto", classes=10, shape=(3, 32, 32))
    replace_head(network, 7, "mlp1")
    assert (network.classes, network.body.num_classes) == (7, 7)
    assert network(torch.rand(2, 3, 32, 32)).shape == (2, 7)
    assert blocks(network)[-1].name == "head.fc"


def test_an_unknown_head_is_refused():
    """The message lists what there is."""
    with pytest.raises(RobbenchError, match="unknown head 'mlp4'; expected one of linear, mlp1"):
        replace_head(cnn7(), 47, "mlp4")
