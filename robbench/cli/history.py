"""``robbench history``: the figures of models over the git history of their baselines, as a picture."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import msgspec

from robbench.cli.options import Commands, path
from robbench.errors import RobbenchError
from robbench.record import UNREADABLE, Counts, median_pstar


class Figures(msgspec.Struct):
    """What a baseline of any commit holds of these."""

    accuracy: Counts | None = None
    grid: list[float] = []
    pstar: list[int] = []
    seconds: dict[str, float] = {}


class Commit(NamedTuple):
    """A commit that changed baselines."""

    sha: str
    date: str
    subject: str


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "history",
        help="draw the figures of models over the git history of their baselines",
        epilog="example: robbench history embedded 'cnn7-*-TL*' -o history.html",
    )
    parser.add_argument("suite", metavar="SUITE", help="the study whose baselines are read")
    parser.add_argument("models", nargs="?", default="*", metavar="PATTERN", help="of model ids (default: all)")
    parser.add_argument("--baselines", type=path, default=Path("baselines"), metavar="DIR", help="default: baselines")
    parser.add_argument(
        "-o", "--output", type=path, default=Path("history.html"), metavar="FILE", help="default: history.html"
    )
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the page, and print its path."""
    from robbench.report.series import FIGURES, Place, series_html
    from robbench.store.files import write_atomically

    folder = options.baselines / options.suite
    lines = git("log", "--reverse", "--format=%H%x09%cs%x09%s", "--", str(folder)).splitlines()
    commits = [Commit(*line.split("\t", 2)) for line in lines]
    if not commits:
        raise RobbenchError(f"history: expected baselines that git knows in {str(folder)!r}, found none")
    values = history(folder, commits, options.models)
    if not any(values.values()):
        raise RobbenchError(f"history: expected models like {options.models!r} among {str(folder)!r}, found none")
    places = [Place(commit.sha[:8], f"{commit.date} {commit.subject}") for commit in commits]
    page = series_html(
        f"{options.suite}: history of {options.models}", places, {name: values[name] for name in FIGURES}
    )
    write_atomically(options.output, page.encode())
    print(options.output)
    return 0


def history(folder: Path, commits: Sequence[Commit], pattern: str) -> dict[str, Mapping[str, list[float | None]]]:
    """The figures of every model at each commit, by figure and model; seconds are of the machine class used most.

    A model that a commit does not have, or has in another form, has no value there.
    """
    found: list[dict[str, Figures]] = [_at(folder, commit.sha, pattern) for commit in commits]
    names = sorted({name for each in found for name in each})
    cases = list(dict.fromkeys(name.rpartition(".")[0] for name in names))
    slugs = [slug for each in found for figures in each.values() for slug in figures.seconds]
    usual = max(slugs, key=slugs.count, default="")
    accuracy: dict[str, list[float | None]] = {}
    median: dict[str, list[float | None]] = {}
    seconds: dict[str, list[float | None]] = {}
    for case in cases:
        tested = [each.get(f"{case}.robustness", Figures()) for each in found]
        trained = [each.get(f"{case}.training", Figures()) for each in found]
        accuracy[case] = [each.accuracy.share if each.accuracy else None for each in tested]
        median[case] = [median_pstar((at for at in each.pstar if at >= 0), each.grid) for each in tested]
        seconds[case] = [each.seconds.get(usual) for each in trained]
    return {"clean accuracy": accuracy, "median p*": median, "training seconds": seconds}


def _at(folder: Path, sha: str, pattern: str) -> dict[str, Figures]:
    """The baselines of a commit, by ``case.stage``."""
    found = {}
    for line in git("ls-tree", "--name-only", sha, f"{folder}/").splitlines():
        name = Path(line).stem
        if line.endswith(".json") and fnmatchcase(name.rpartition(".")[0], pattern):
            try:
                found[name] = msgspec.json.decode(git("show", f"{sha}:./{line}"), type=Figures)
            except UNREADABLE:  # of a form that has since changed
                continue
    return found


def git(*arguments: str) -> str:
    """What git says in the current folder; a RobbenchError where it fails."""
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, encoding="utf-8", check=False)
    if done.returncode != 0:
        raise RobbenchError(f"history: git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout
