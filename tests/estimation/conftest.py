"""The network of most tests of estimators."""

import pytest
from networks import on_patterns


@pytest.fixture(scope="session")
def trained(one_thread):
    """A small convolutional network in eval mode; float64."""
    return on_patterns().eval()
