"""A user's own code counts as it was when it was imported."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace
from hashlib import sha256

import pytest
from specs import MNIST, RECIPE

from robbench.spec import Model, code_of, edited_code

BEFORE, AFTER = (
    f"from robbench import Objective\n\nclass Own(Objective):\n    pass\n\n# {word}\n" for word in ("old", "new")
)


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A module with an objective and networks, not yet imported."""
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "own_file.py"
    path.write_text(BEFORE)
    yield path
    sys.modules.pop("own_file", None)


def hashed(text):
    """What :func:`code_of` gives for a file of this content."""
    return [sha256(text.encode()).hexdigest()]


def test_an_objective_counts_as_it_was_imported(file):
    """Its class exists since then; the file is named as soon as it differs, and no more once it is put back."""
    objective = importlib.import_module("own_file").Own()
    assert edited_code(objective) == []
    file.write_text(AFTER)
    assert code_of(objective) == hashed(BEFORE)
    assert edited_code(objective) == [file]
    file.write_text(BEFORE)
    assert edited_code(objective) == []


def test_a_network_counts_as_it_was_when_its_model_was_declared(file):
    """If its module had been imported by then; until then it is what is on disk."""
    first = Model(architecture="own_file:make", dataset=MNIST, recipe=RECIPE)
    assert code_of(first) == hashed(BEFORE)
    file.write_text(AFTER)
    assert (code_of(first), edited_code(first)) == (hashed(AFTER), [])
    importlib.import_module("own_file")
    digest = replace(first).digest
    file.write_text(BEFORE)
    assert code_of(first) == hashed(AFTER)
    assert edited_code(first) == [file]
    assert first.digest == digest


def test_a_module_that_is_imported_again_counts_anew(file):
    """In a notebook, reloaded: the same model has another digest."""
    module = importlib.import_module("own_file")
    model = Model(architecture="own_file:make", dataset=MNIST, recipe=RECIPE)
    digest = model.digest
    file.write_text(AFTER)
    importlib.reload(module)
    assert code_of(model) == hashed(AFTER)
    assert model.digest != digest
    del sys.modules["own_file"]
    file.write_text(BEFORE)
    importlib.import_module("own_file")
    assert model.digest == digest


def test_a_file_that_is_gone_is_as_good_as_another(file):
    """Its module still runs as it was."""
    objective = importlib.import_module("own_file").Own()
    file.unlink()
    assert code_of(objective) == hashed(BEFORE)
    assert edited_code(objective) == [file]
