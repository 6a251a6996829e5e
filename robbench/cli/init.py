"""``robbench init``: a first suite in one's own project, which runs at once."""

from __future__ import annotations

import argparse
from importlib.resources import files
from pathlib import Path

from robbench.cli.options import Commands, path
from robbench.store.files import write_atomically

STARTER = {"suite.txt": "suites/test_robustness.py", "workflow.txt": ".github/workflows/robustness.yml"}
"""What is written from which template."""

IGNORED = (".robbench/", ".benchmarks/", "reports/")
"""Lines that .gitignore gets: the store, pytest-benchmark's, and what each run writes anew."""

NEXT = """next:
  robbench plan suites/test_robustness.py               what it will cost here
  pytest -m suite suites --robbench-update              run it, and write the baselines
  OWNER in .github/workflows/robustness.yml             put the repository there that CI is to install robbench from
  git add suites baselines .github .gitignore           what later runs are held to: pytest -m suite suites"""


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "init",
        help="write a first suite, a CI workflow and ignore lines into a project; overwrites nothing",
        epilog="example: robbench init && pytest -m suite suites --robbench-update",
    )
    parser.add_argument("folder", nargs="?", type=path, default=Path("."), help="the project's (default: this one)")
    return parser


def run(options: argparse.Namespace) -> int:
    """Write what is missing, and print what was written, what was there, and what to do next."""
    for template, name in STARTER.items():
        target = options.folder / name
        if target.exists():
            print(f"there already: {target}")
            continue
        text = files("robbench.cli").joinpath("starter", template).read_text(encoding="utf-8")
        write_atomically(target, text.encode())
        print(f"written: {target}")
    ignored = options.folder / ".gitignore"
    before = ignored.read_text(encoding="utf-8") if ignored.exists() else ""
    if lines := [line for line in IGNORED if line not in before.splitlines()]:
        begun = before if not before or before.endswith("\n") else f"{before}\n"
        write_atomically(ignored, (begun + "\n".join(lines) + "\n").encode())
        print(f"added to {ignored}: {', '.join(lines)}")
    print(NEXT)
    return 0
