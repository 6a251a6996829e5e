"""Small datasets for the tests of robbench.data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def arrays() -> Callable[..., dict[str, Any]]:
    """A function that makes the five arrays of a prepared file, random but always the same; arguments replace some."""

    def make(*, side: int = 28, channels: int | None = None, class_count: int = 10, **replaced: Any) -> dict[str, Any]:
        random = np.random.default_rng(0)
        size = (side, side) if channels is None else (side, side, channels)
        made: dict[str, Any] = {
            "x_train": random.integers(0, 256, (12, *size), dtype=np.uint8),
            "y_train": np.arange(12) % class_count,
            "x_test": random.integers(0, 256, (7, *size), dtype=np.uint8),
            "y_test": np.arange(7) % class_count,
            "classes": np.array([f"class {c}" for c in range(class_count)]),
        }
        return made | replaced

    return make
