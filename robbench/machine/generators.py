"""The random generators that a network's own code may draw from: torch's, Python's and numpy's global ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_at(seed: int, device: torch.device) -> Iterator[None]:
    """Begin all global generators at a seed, the device's included; afterwards they go on where they stood."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        python, arrays = random.getstate(), np.random.get_state()
        try:
            # Not torch.manual_seed: it would seed all GPUs' generators, and nothing would put those back.
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # all that it takes
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
