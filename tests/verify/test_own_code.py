"""robbench verify: code that store and bundle name runs only where the user names it."""

from __future__ import annotations

import sys

import pytest

from robbench.data import load_data


@pytest.fixture
def unloaded(monkeypatch):
    """As in a new process: the network's module is not imported yet."""
    monkeypatch.delitem(sys.modules, "proven_net")
    load_data.cache_clear()


@pytest.mark.parametrize("options", [("--device", "cpu"), ("--code", "proven"), ("--code", "proven_net.more")])
def test_code_that_was_not_named_is_not_imported(verified, unloaded, options):
    """Its records are held to the store, and unproven; the line says how to run it."""
    status, lines = verified(*options)
    assert "proven_net" not in sys.modules
    assert status == 3
    assert len(lines) == 8 + 2
    for line in lines[:8]:
        assert line.startswith("unproven  ")
        assert line.endswith(
            "as in the store, but not run; proven_net:mlp is your own code, name it with --code proven_net to run it"
        )
    assert lines[-2] == "8 records, 0 counterexamples proven, 8 records unproven, 0 problems"
    assert lines[-1] == "nothing was proven; proven_net:mlp is your own code, name it with --code proven_net to run it"


def test_code_that_was_named_is_run(verified, unloaded):
    """One of several modules."""
    assert verified("--code", "elsewhere", "--code", "proven_net")[0] == 0
    assert "proven_net" in sys.modules
