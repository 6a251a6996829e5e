"""The studies that a suite file declares, without running pytest."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from robbench.errors import RobbenchError
from robbench.spec import Study


def read_studies(path: Path) -> tuple[Study, ...]:
    """All studies of a suite file: those that its ``suite`` markers name, and those in its global names.

    Raises:
        RobbenchError: the file cannot be imported, or declares no study.
    """
    module = _imported(path)
    marks = [mark for value in vars(module).values() for mark in (_marks(value) if callable(value) else ())]
    marks += _marks(module)
    named = [argument for mark in marks for argument in getattr(mark, "args", ())]
    studies = {value.name: value for value in [*named, *vars(module).values()] if isinstance(value, Study)}
    if not studies:
        raise RobbenchError(f"{path}: expected a Study, as in `pytestmark = pytest.mark.suite(STUDY)`; found none")
    return tuple(studies.values())


def find_code_in(folder: Path) -> None:
    """Let a user's own networks be imported from a folder; installed packages come first."""
    if (path := str(folder.resolve())) not in sys.path:
        sys.path.append(path)


def _marks(holder: Any) -> list[Any]:
    """The marks that pytest leaves on a module or function."""
    marks = getattr(holder, "pytestmark", [])
    return [getattr(mark, "mark", mark) for mark in (marks if isinstance(marks, list | tuple) else [marks])]


def _imported(path: Path) -> ModuleType:
    """The file as a module; it may import what lies beside it, as under pytest."""
    if not path.is_file():
        raise RobbenchError(f"suite {str(path)!r}: expected a file such as suites/test_embedded.py")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise RobbenchError(f"suite {str(path)!r}: expected a Python file")
    module = importlib.util.module_from_spec(spec)
    find_code_in(path.parent)
    try:
        spec.loader.exec_module(module)
    except RobbenchError as error:
        raise RobbenchError(f"{path}: {error}") from error
    except Exception as error:  # whatever a user's file raises
        raise RobbenchError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module
