"""Transfer: which blocks are kept bit by bit, which start anew, and what is trained."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

import robbench.training.transfer
from robbench.errors import RobbenchError
from robbench.models import blocks, build, weights
from robbench.spec.catalogue import ARCHITECTURE_SHAPES, block_names
from robbench.training.transfer import parameter_groups, transfer

SHAPES = {name: shape for name, shape in ARCHITECTURE_SHAPES.items() if shape[0] == 1} | {"wrn10_1": (3, 8, 8)}
CASES = [(name, k) for name in SHAPES for k in range(1, len(block_names(name) or ()) + 1)]


def trained(architecture, *, shape=None, classes=10, seed=0):
    """A network whose every tensor is another than a new one's, batch-norm statistics included."""
    network = build(architecture, classes=classes, shape=shape or SHAPES[architecture], seed=seed)
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for value in network.state_dict().values():
            value.add_(torch.rand(value.shape, generator=generator) + 0.1 if value.is_floating_point() else 7)
    return network


def unchanged(before, after):
    """Keys whose tensors are bit by bit the same in both."""
    return {key for key in before.keys() & after.keys() if torch.equal(before[key], after[key])}


@given(
    st.sampled_from(CASES),
    st.sampled_from(["frozen", "finetuned", "warm"]),
    st.sampled_from(["linear", "mlp1"]),
    st.integers(0, 3),
)
def test_exactly_the_last_k_blocks_start_anew(case, kept, head, seed):
    """The first K − k are bit by bit the source's, every tensor of the others differs, and the source stays."""
    architecture, k = case
    source = trained(architecture, seed=seed)
    before = weights(source)
    result = transfer(source, k=k, classes=13, head=head, kept=kept, seed=seed)
    names = block_names(architecture)
    after = weights(result.network)

    retrained = names[-k:]
    assert tuple(block.name for block in result.retrained) == retrained
    old = {key for key in before if key.split(".")[0] not in retrained}
    assert unchanged(before, after) == old
    assert result.network(torch.rand(2, *source.shape)).shape == (2, 13)
    assert unchanged(before, weights(source)) == before.keys()
    assert all(parameter.requires_grad for parameter in source.parameters())

    anew = {name for name, p in result.network.body.named_parameters() if name.split(".")[0] in retrained}
    learning = {name for name, p in result.network.body.named_parameters() if p.requires_grad}
    everything = {name for name, _ in result.network.body.named_parameters()}
    assert learning == (anew if kept == "frozen" else everything)


def test_new_values_follow_the_seed_and_differ_from_the_sources_first():
    """One seed, one result; and never the initial values that the source of the same seed was trained from."""
    source = build("cnn7", classes=10, shape=(1, 28, 28), seed=4)
    first, again, other = (weights(transfer(source, k=7, classes=10, seed=s).network) for s in (4, 4, 5))
    assert unchanged(first, again) == first.keys()
    assert unchanged(first, other) == set()
    assert unchanged(first, weights(source)) == set()


@pytest.mark.parametrize("architecture", ["cnn3", "wrn10_1"])
def test_what_starts_anew_is_what_a_new_network_has(monkeypatch, architecture):
    """The retrained blocks, head included, are bit by bit those of a build."""
    made = []

    def spy(*arguments, **options):
        made.append(build(*arguments, **options))
        return made[-1]

    monkeypatch.setattr(robbench.training.transfer, "build", spy)
    result = transfer(trained(architecture), k=2, classes=5, seed=3)
    before, after = weights(made[0]), weights(result.network)
    anew = [block.name for block in result.retrained]
    assert unchanged(before, after) == {key for key in after if key.split(".")[0] in anew}


def test_the_last_batch_norm_of_a_wide_network_is_always_kept():
    """It belongs to no block, so it stays frozen even if every block is retrained."""
    source = trained("wrn10_1")
    result = transfer(source, k=5, classes=5, seed=0)
    assert torch.equal(result.network.body.bn1.weight, source.body.bn1.weight)
    assert [p.requires_grad for p in result.network.body.bn1.parameters()] == [False, False]
    assert result.kept[0] is result.network.body.bn1
    assert not [parameter for module in result.kept[1:] for parameter in module.parameters()]


def test_finetuned_blocks_learn_at_the_scaled_rate():
    """Two groups have every parameter once, and no group is empty."""
    result = transfer(trained("cnn7"), k=3, classes=47, kept="finetuned", seed=0)
    retrained, kept = parameter_groups(result, 0.01)
    assert (retrained["scale"], kept["scale"]) == (1, 0.01)
    assert sum(p.numel() for p in retrained["params"]) == 1024 * 200 + 200 + 200 * 200 + 200 + 200 * 47 + 47
    assert sum(p.numel() for group in (retrained, kept) for p in group["params"]) == 319_639
    for k, treatment in ((3, "frozen"), (7, "finetuned")):
        made = transfer(trained("cnn7"), k=k, classes=47, kept=treatment, seed=0)
        assert [group["scale"] for group in parameter_groups(made, 0.01)] == [1]


def test_the_normalisation_is_the_targets():
    """The source's is left behind."""
    source = build("wrn10_1", classes=10, shape=(3, 8, 8), mean=(0.5,) * 3, std=(0.2,) * 3)
    with_own = transfer(source, k=1, classes=5, mean=(0.4,) * 3, std=(0.3,) * 3, seed=0).network
    assert with_own.normalise.mean.flatten().tolist() == pytest.approx([0.4] * 3)
    assert transfer(source, k=1, classes=5, seed=0).network.normalise.mean is None


def test_a_transferred_network_can_be_a_source():
    """Also with an MLP head, whose place the next head takes."""
    first = transfer(trained("cnn3"), k=1, classes=5, head="mlp2", seed=0).network
    second = transfer(first, k=2, classes=7, kept="finetuned", seed=1).network
    assert isinstance(second.body.fc2, nn.Linear)
    assert all(parameter.requires_grad for parameter in second.parameters())
    assert torch.equal(second.body.conv1.weight, first.body.conv1.weight)


def test_a_timm_network_is_transferred_with_its_tokens():
    """All blocks but the stem start anew, then the stem too: class token and positions, in no module, go along."""
    source = trained("timm:vit_tiny_patch16_224", shape=(3, 32, 32))
    total = len(blocks(source))
    some, every = (transfer(source, k=k, classes=5, seed=0) for k in (total - 1, total))
    stem = ("cls_token", "pos_embed", "patch_embed")
    before = weights(source)
    same = unchanged(before, weights(some.network))
    assert {key.split(".")[0] for key in same} == set(stem)
    assert not some.network.body.cls_token.requires_grad
    kept = {id(module) for top in some.kept for module in top.modules()}
    inside = [{id(top) in kept for top in block.modules} for block in blocks(some.network)]
    assert inside == [{True}] + [{False}] * (total - 1)
    assert unchanged(before, weights(every.network)) == set()
    assert every.network.body.cls_token.requires_grad


def test_a_head_of_other_tensors_is_transferred(monkeypatch):
    """A linear head is the network's own, normalised as it was."""

    def make(classes, shape):
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), weight_norm(nn.Linear(8, classes)))

    monkeypatch.setitem(sys.modules, "own_networks", SimpleNamespace(make=make))
    source = trained("own_networks:make", shape=(1, 4, 4))
    network = transfer(source, k=1, classes=5, seed=0).network
    assert unchanged(weights(source), weights(network)) == {"1.weight", "1.bias"}
    assert weights(network).keys() == weights(source).keys()
    assert network(torch.rand(2, 1, 4, 4)).shape == (2, 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 9}, "k: expected 1…7 for cnn7, got 9"),
        ({"k": 0}, "k: expected 1…7 for cnn7, got 0"),
        ({"head": "mlp9"}, "unknown head 'mlp9'"),
    ],
)
def test_an_impossible_transfer_is_refused(options, message):
    """The message says what would have been possible."""
    source = build("cnn7", classes=10, shape=(1, 28, 28))
    with pytest.raises(RobbenchError, match=message):
        transfer(source, **{"k": 1, "classes": 47, "seed": 0, **options})
