"""The random generators that a network's own code may draw from: torch's, Python's and numpy's global ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def generators_at(seed: int, device: torch.device) -> Iterator[None]:
    """Seed all global generators, that of the device included; afterwards they continue where they were."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if cuda else []):
        python, arrays = random.getstate(), np.random.get_state()
        try:
            # torch.manual_seed would also seed the generators of all other GPUs, which fork_rng does not restore.
            torch.default_generator.manual_seed(seed)
            if cuda:
                with torch.cuda.device(device):
                    torch.cuda.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # numpy takes no larger seed
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)
