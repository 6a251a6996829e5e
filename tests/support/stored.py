"""What tests put into a store."""

from __future__ import annotations

import torch
from factories import make_facts, training_record

DIGEST = "ab" * 32
OTHER = "0c" * 32


def record(digest=DIGEST):
    """A training record of a digest."""
    return training_record(make_facts(), digest=digest)


def tensors():
    """Weights of every kind: a matrix, a scalar counter, an empty one, and half precision."""
    return {
        "conv1.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
        "bn.num_batches_tracked": torch.tensor(7),
        "none": torch.zeros(0, 4),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    }


def files(store):
    """Every file of the store, by its path, without locks."""
    return {path.name: path for path in store.folder.rglob("*") if path.is_file() and path.name != "lock"}
