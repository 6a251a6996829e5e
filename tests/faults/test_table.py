"""The fault table of the documentation names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
TABLE = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TABLE)))


def test_every_test_that_the_table_names_exists() -> None:
    """As a function of the file it names."""
    assert len(NAMED) > 40
    functions = {
        path: {node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)}
        for path in {path for path, _ in NAMED}
    }
    assert [f"{path}::{name}" for path, name in NAMED if name not in functions[path]] == []


def test_every_row_is_whole() -> None:
    """A row has as many cells as its heading, and no identifier outside of what is checked above."""
    for block in re.findall(r"(?m)(?:^\|.*\n)+", TABLE):
        assert len({line.count("|") for line in block.splitlines()}) == 1, block
    assert len(re.findall(r"\.py::", TABLE)) == len(re.findall(r"`tests/[\w/]+\.py::\w+`", TABLE))
