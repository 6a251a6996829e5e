"""What tells the code of two runs apart."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from unittest.mock import MagicMock

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


@pytest.fixture
def load(monkeypatch):
    """A function that lets a file pass for that of a loaded module."""

    def load(path, name="loaded_by_a_test"):
        module = ModuleType(name)
        module.__file__ = path
        monkeypatch.setitem(sys.modules, name, module)

    return load


def codes(root, write, name):
    """Of a root before and after a file changes."""
    found = []
    for text in ("x = 1", "x = 2"):
        write(name, text)
        found.append(code_of_run(root, []))
    return found


def test_a_file_that_changes_is_other_code(write, tmp_path):
    """Whatever it is called, also by a name of this package's; and back again."""
    first, second = codes(tmp_path, write, "robbench/record.py")
    assert codes(tmp_path, write, "robbench/record.py") == [first, second]
    assert len({first, second, code_of_run(tmp_path / "elsewhere", [])}) == 3


@pytest.mark.parametrize(
    "name", ["lib/site-packages/other.py", ".venv/other.py", "env/lib/a.py", "a.txt", ".a.py", "links/nowhere"]
)
def test_what_is_installed_hidden_or_no_python_file_is_not_code(write, tmp_path, name):
    """The first stands in records, as versions."""
    write("env/pyvenv.cfg", "")
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.py").symlink_to("nowhere.py")
    os.mkfifo(tmp_path / "links" / "b.py")
    before = code_of_run(tmp_path, [])
    assert codes(tmp_path, write, name) == [before, before]


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("elsewhere/a.py", True),
        ("elsewhere/compiled.so", True),
        ("project/.hidden/a.py", True),
        ("project/.venv/src/mine/a.py", True),
        ("project/.venv/lib/python3/site-packages/a.py", False),
    ],
)
def test_what_is_loaded_is_code_but_for_what_is_installed(write, load, tmp_path, name, counts):
    """Wherever it lies."""
    write("project/a.py", "x = 1")
    load(str(tmp_path / name))
    first, second = codes(tmp_path / "project", write, name)
    assert (first != second) == counts


def test_python_itself_and_what_is_below_the_root_count_once(write, load, tmp_path, monkeypatch):
    """A process that has loaded more of either runs the same code; so does one that was begun by another program."""
    write("a.py", "x = 1")
    before = code_of_run(tmp_path, [])
    load(str(tmp_path / "a.py"))
    load(str(Path(sysconfig.get_path("stdlib"), "antigravity.py")), "antigravity")
    (program := ModuleType("__main__")).__file__ = str(tmp_path / "program.txt")
    write("program.txt", "x = 1")
    monkeypatch.setitem(sys.modules, "__main__", program)
    assert code_of_run(tmp_path, []) == before


def test_the_networks_of_a_run_are_loaded_for_it(write, tmp_path, monkeypatch):
    """With all that they import, although the first stage would be the first to do so; what cannot be had is left to it."""
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    write("elsewhere/net_of_a_test.py", "from blocks_of_a_test import block")
    seen = set()
    for text in ("block = 1", "block = 2"):
        write("elsewhere/blocks_of_a_test.py", text)
        names = ["net_of_a_test:make", "nowhere_at_all:make", "timm:resnet18", "cnn7"]
        seen.add(code_of_run(tmp_path / "project", names))
    assert len(seen) == 2


def test_the_same_files_elsewhere_are_the_same_code(write, load, tmp_path):
    """Two checkouts may share a store, also through a link, and with modules that were loaded from beside them."""
    found = set()
    for checkout in ("one", "two"):
        for name in "abc" if checkout == "one" else "cba":
            write(f"{checkout}/project/{name}.py", name)
        write(f"{checkout}/beside.py", "x = 2")
        load(str(tmp_path / checkout / "beside.py"))
        load(str(tmp_path / f"link_to_{checkout}" / "a.py"), "linked")
        (tmp_path / f"link_to_{checkout}").symlink_to(tmp_path / checkout / "project")
        found |= {code_of_run(tmp_path / name, []) for name in (f"{checkout}/project", f"link_to_{checkout}")}
    assert len(found) == 1


def test_very_many_files_are_never_the_same_code(write, tmp_path, monkeypatch):
    """Such a folder is somebody's home, not a project; to read it all would take long."""
    write("a.py", "x = 1")
    monkeypatch.setattr(robbench.plugin.code, "_MOST_FILES", 3)
    assert code_of_run(tmp_path, []) != code_of_run(tmp_path, [])


@pytest.mark.parametrize("method", ["read_bytes", "is_file"])
def test_a_file_that_cannot_be_read_or_reached_is_never_the_same_code(write, tmp_path, monkeypatch, method):
    """And ends no run."""
    write("a.py", "x = 1")
    granted = getattr(Path, method)

    def refused(path):
        if path == tmp_path / "a.py":
            raise PermissionError
        return granted(path)

    monkeypatch.setattr(Path, method, refused)
    assert code_of_run(tmp_path, []) != code_of_run(tmp_path, [])


class Lazy:
    """Passes for a module, and is none before it is asked for something."""

    __slots__ = ()

    def __getattr__(self, name):
        raise ImportError(name)


@pytest.mark.parametrize("make", [lambda: None, Lazy, MagicMock, lambda: MagicMock(__file__=MagicMock())])
def test_anything_may_pass_for_a_module(tmp_path, monkeypatch, make):
    """Lazy ones and stubs are in nobody's way."""
    before = code_of_run(tmp_path, [])
    monkeypatch.setitem(sys.modules, "odd", make())
    assert code_of_run(tmp_path, []) == before


@pytest.mark.parametrize(
    "file", [7, b"/x/y.py", ["/x"], "/x/\0y.py", "_ops.py", None, "", "/x/gone.py", "/x/a.zip/b.py", "/tmp"]
)
def test_a_module_may_say_anything_of_its_file(tmp_path, load, file):
    """As those of archives; it is the same code every time."""
    load(file)
    assert code_of_run(tmp_path, []) == code_of_run(tmp_path, [])
