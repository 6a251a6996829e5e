"""What tells the code of two runs apart."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from robbench.plugin.code import code_of_run


@pytest.fixture
def load(monkeypatch, tmp_path):
    """A function that writes a file and takes it for a loaded module."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        module = ModuleType(path.stem)
        module.__file__ = str(path)
        monkeypatch.setitem(sys.modules, f"loaded_by_a_test.{name}", module)

    return write


def test_a_module_that_changes_is_other_code(load, tmp_path):
    """Whatever it is called, also by a name of this package's; and back again."""
    codes = []
    for text in ("x = 1", "x = 2", "x = 1"):
        load("robbench/record.py", text)
        codes.append(code_of_run((tmp_path,), ["test_*.py"]))
    assert codes[0] == codes[2] != codes[1]
    assert codes[0] != code_of_run((tmp_path / "elsewhere",), ["test_*.py"])


@pytest.mark.parametrize("name", ["test_mine.py", "sub/test_mine.py", "lib/site-packages/other.py", "native.so"])
def test_tests_and_what_is_installed_are_not_code(load, tmp_path, name):
    """The former stand in the digests of their stages, the latter in records, as versions."""
    before = code_of_run((tmp_path,), ["test_*.py"])
    load(name, "x = 1")
    assert code_of_run((tmp_path,), ["test_*.py"]) == before


def test_the_same_files_elsewhere_are_the_same_code(load, tmp_path):
    """Two checkouts may share a store."""
    load("one/a.py", "x = 1")
    before = code_of_run((tmp_path / "one",), [])
    load("two/a.py", "x = 1")
    assert code_of_run((tmp_path / "two",), []) == before
