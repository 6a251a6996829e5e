"""What all tests share."""

import os

import hypothesis
import pytest

# The same examples in every CI run: a new one is found, and mended, where somebody is looking.
hypothesis.settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    hypothesis.settings.load_profile("ci")


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread, which is the fastest for such small models, above all on a busy machine."""
    import torch  # here, since a run of the suites reads this file, too

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
