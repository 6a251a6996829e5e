"""The studies that a suite file declares, without running pytest."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from typing import Any

from robbench.errors import RobbenchError
from robbench.spec import Study

PROJECT_FILES = ("pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg", "setup.py")
"""What lies in a project's root; pytest looks for the same ones."""


def read_studies(path: Path) -> tuple[Study, ...]:
    """The studies of a suite file's markers and global names; a RobbenchError if there is none."""
    names = _executed(path)
    marks = [mark for value in names.values() if callable(value) for mark in _listed(getattr(value, "pytestmark", []))]
    marks += _listed(names.get("pytestmark", []))
    named = [argument for mark in marks for argument in getattr(getattr(mark, "mark", mark), "args", ())]
    studies = {value.name: value for value in [*named, *names.values()] if isinstance(value, Study)}
    if not studies:
        raise RobbenchError(f"{path}: expected a Study, as in `pytestmark = pytest.mark.suite(STUDY)`; found none")
    return tuple(studies.values())


def find_code_in(*folders: Path) -> None:
    """Let a user's own networks be imported from these folders; installed packages come first."""
    for folder in folders:
        if (path := str(folder.resolve())) not in sys.path:
            sys.path.append(path)


def project_of(folder: Path) -> Path:
    """The nearest folder, at or above this one, that configures pytest or a package; this one if there is none."""
    above = (folder, *folder.resolve().parents)
    return next((each for each in above if any((each / name).is_file() for name in PROJECT_FILES)), folder)


def _listed(marks: Any) -> list[Any]:
    return list(marks) if isinstance(marks, list | tuple) else [marks]


def _executed(path: Path) -> dict[str, Any]:
    """The file's global names; it may import what lies beside it."""
    if not path.is_file():
        raise RobbenchError(f"suite {str(path)!r}: expected a file such as suites/test_embedded.py")
    find_code_in(path.parent)
    try:
        return runpy.run_path(str(path), run_name=path.stem)
    except RobbenchError as error:
        raise RobbenchError(f"{path}: {error}") from error
    except Exception as error:  # whatever a user's file raises
        raise RobbenchError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
