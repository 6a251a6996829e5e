"""What all tests share."""

import os
import sys

import hypothesis
import pytest

# The same examples in every run of CI: a new one is found, and mended, where somebody is looking.
hypothesis.settings.register_profile("push", max_examples=20, deadline=None, derandomize=bool(os.environ.get("CI")))
hypothesis.settings.register_profile("long", max_examples=500, deadline=None)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "push"))


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """One thread, which is the fastest for such small models, above all on a busy machine."""
    import torch  # here, since a run of the suites reads this file, too

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _places_of_code():
    """A test's own networks are not found by the next one, which has others of the same name."""
    before = sys.path[:]
    yield
    sys.path[:] = before
