"""Heads: the last layers of a network, replaced for a target with other classes."""

from __future__ import annotations

from torch import nn

from robbench.errors import unknown
from robbench.models.network import Network, seeded

HEADS: dict[str, int] = {"linear": 0, "mlp1": 1, "mlp2": 2, "mlp3": 3}
"""Names of heads, and their number of hidden layers."""

HIDDEN_FEATURES = 2048
DROPOUT = 0.25


def replace_head(network: Network, classes: int, head: str = "linear", seed: int = 0) -> None:
    """Put a new head with ``classes`` logits on ``network``, which is changed in place.

    ``linear`` is one fully connected layer. ``mlpN`` has N hidden layers before it, each Linear (2048), BatchNorm1d, ReLU
    and Dropout (0.25). Input features, device, dtype, and whether the logits have a bias stay.

    Raises:
        RobbenchError: ``head`` is no name of a head.
    """
    if head not in HEADS:
        raise unknown("head", head, HEADS)
    old = network.head_layers
    features, like = old[0].in_features, old[0].weight
    layers: list[nn.Module] = []
    with seeded(seed):
        for _ in range(HEADS[head]):
            layers += [nn.Linear(features, HIDDEN_FEATURES), nn.BatchNorm1d(HIDDEN_FEATURES), nn.ReLU()]
            layers.append(nn.Dropout(DROPOUT))
            features = HIDDEN_FEATURES
        last = nn.Linear(features, classes, bias=old[-1].bias is not None)
    new = nn.Sequential(*layers, last) if layers else last
    put_head(network, new.to(like.device, like.dtype), classes)


def put_head(network: Network, head: nn.Module, classes: int) -> None:
    """Put a module with ``classes`` logits in the place of the network's head."""
    network.body.set_submodule(network.head, head)
    if hasattr(network.body, "num_classes"):  # timm keeps its own count
        setattr(network.body, "num_classes", classes)  # noqa: B010 - torch types attributes as tensors or modules
