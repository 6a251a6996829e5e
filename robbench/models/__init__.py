"""Networks: the study's architectures, any of timm's, any of the user's; their blocks, heads and weights."""

from robbench.models.blocks import Block, blocks
from robbench.models.build import build
from robbench.models.checkpoints import Loaded, network_of_checkpoint
from robbench.models.exported import export_network, load_model
from robbench.models.heads import HEADS, put_head, replace_head
from robbench.models.network import Network, Normalise, parameter_count, place, seeded
from robbench.models.trial import share_alike, try_network
from robbench.models.weights import load_weights, weights

__all__ = [
    "HEADS",
    "Block",
    "Loaded",
    "Network",
    "Normalise",
    "blocks",
    "build",
    "export_network",
    "load_model",
    "load_weights",
    "network_of_checkpoint",
    "parameter_count",
    "place",
    "put_head",
    "replace_head",
    "seeded",
    "share_alike",
    "try_network",
    "weights",
]
