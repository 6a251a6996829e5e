"""What tells the code of two runs apart."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

import robbench.plugin.code
from robbench.plugin.code import code_of_run


@pytest.fixture
def write(tmp_path):
    """A function that writes a file below the temporary folder."""

    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_a_file_that_changes_is_other_code(write, tmp_path):
    """Whatever it is called, also by a name of this package's; and back again."""
    codes = []
    for text in ("x = 1", "x = 2", "x = 1"):
        write("robbench/record.py", text)
        codes.append(code_of_run((tmp_path,)))
    assert codes[0] == codes[2] != codes[1]
    assert codes[0] != code_of_run((tmp_path / "elsewhere",))


@pytest.mark.parametrize(
    "name",
    ["lib/site-packages/other.py", ".venv/other.py", "env/lib/a.py", "a.txt"],
)
def test_what_is_installed_is_not_code(write, tmp_path, name):
    """It stands in records, as versions."""
    write("env/pyvenv.cfg", "")
    before = code_of_run((tmp_path,))
    write(name, "x = 1")
    assert code_of_run((tmp_path,)) == before


def test_the_same_files_elsewhere_are_the_same_code(write, tmp_path):
    """Two checkouts may share a store."""
    write("one/a.py", "x = 1")
    write("two/a.py", "x = 1")
    assert code_of_run((tmp_path / "one",)) == code_of_run((tmp_path / "two",))


def test_very_many_files_are_never_the_same_code(write, tmp_path, monkeypatch):
    """Such a folder is somebody's home, not a project; to read it all would take long."""
    write("a.py", "x = 1")
    monkeypatch.setattr(robbench.plugin.code, "_MOST_FILES", 3)
    assert code_of_run((tmp_path,)) != code_of_run((tmp_path,))


def test_a_file_that_cannot_be_read_is_never_the_same_code(tmp_path):
    """And ends no run."""
    (tmp_path / "gone.py").symlink_to(tmp_path / "nowhere.py")
    assert code_of_run((tmp_path,)) != code_of_run((tmp_path,))


def test_linked_folders_and_loaded_modules_are_code(write, tmp_path, monkeypatch):
    """Wherever they lie; a link to a folder above ends somewhere."""
    write("elsewhere/helper.py", "x = 1")
    write("project/a.py", "x = 1")
    (tmp_path / "project" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "project" / "round").symlink_to(tmp_path / "project")
    module = ModuleType("loaded")
    module.__file__ = str(tmp_path / "editable" / "loaded.py")
    write("editable/loaded.py", "x = 1")
    monkeypatch.setitem(sys.modules, "loaded_by_a_test", module)
    codes = [code_of_run((tmp_path / "project",))]
    for changed in ("elsewhere/helper.py", "editable/loaded.py"):
        write(changed, "x = 2")
        codes.append(code_of_run((tmp_path / "project",)))
    assert len({*codes}) == 3
