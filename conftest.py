"""For the project's own tests: pytester, and a suite run that does not import the unit tests."""

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

UNIT_TESTS = Path(__file__).parent / "tests"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Under ``-m suite`` and ``-m perf`` leave the unit tests alone: none would run, and importing them takes seconds."""
    return True if config.option.markexpr in ("suite", "perf") and UNIT_TESTS in collection_path.parents else None
