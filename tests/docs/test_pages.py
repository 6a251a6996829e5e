"""The pages of docs/ do what they say: every command is run, or its line says why not; every suite file can be read."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

# Imported before any inner run: pytester forgets the modules that a run imports, and torch cannot be imported twice.
import torch._dynamo  # noqa: F401  by the first optimiser
from photographs import write_folders

import robbench
import robbench.report.bundle
from robbench.cli import main, new_parser, parse, verbs_of
from robbench.spec.suite_files import read_studies

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = {page.name: page.read_text(encoding="utf-8") for page in sorted(DOCS.glob("*.md"))}
NAVIGATION = re.findall(r"(\S+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
ELSEWHERE = {"use-a-model.md"}
"""Pages whose commands another test runs: tests/plugin/test_use_a_model.py."""
WITHOUT_STUDY = {"photographs.md", "cluster.md"}
"""Pages whose commands need no study that has run."""
NOT_RUN = re.compile(r"^pip |# .*(needs a GPU|needs workers|downloads)")

SUITE = """
import pytest
from robbench import PGD, Dataset, EpsilonGrid, Estimate, Recipe, Study, Transfers

STANDARD = Recipe(optimiser="adam", learning_rate=0.01, weight_decay=0, batch_size=8, epochs=1)
STUDY = Study(
    name="mine",
    source=Dataset(name="glyphs10", train=60, test=20),
    target=Dataset(name="glyphs47", train=60, test=20),
    architectures=("relu_2_64",),
    standard=STANDARD,
    adversarial=Recipe(
        optimiser="adam", learning_rate=0.01, weight_decay=0, batch_size=8, epochs=1, attack=PGD(epsilon=0.05, steps=1)
    ),
    transfers=(Transfers(recipe=STANDARD, k=(1,)),),
    estimate=Estimate(grid=EpsilonGrid(stop=1.0, step=0.05), attack=PGD(steps=2, random_start=False), images=20),
)
pytestmark = pytest.mark.suite(STUDY, seconds=1000)


def test_training(model, robbench):
    robbench.train(model)


def test_robustness(model, robbench):
    robbench.estimate(model)
"""


CODE_BLOCK = re.compile(r"```.*?```", re.DOTALL)


def commands(text):
    """Every command of a page's console blocks, as written."""
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    return [line[2:] for block in blocks for line in block.splitlines() if line.startswith("$ ")]


def words(line):
    """Those of the first command of a line, without a comment and without where its output goes."""
    found = shlex.split(line, comments=True)
    return found[: next((place for place, word in enumerate(found) if word in ("&&", ">")), None)]


def only_checked(text):
    """The commands of a page that are not run: those of its sentences, and those of its blocks that say so."""
    said = re.findall(r"`((?:robbench|pytest|python|make) [^`]+)`", CODE_BLOCK.sub("", text))
    return [each.replace("\n", " ") for each in said] + [each for each in commands(text) if NOT_RUN.search(each)]


RUN = [
    pytest.param(name, [each for each in commands(text) if not NOT_RUN.search(each)], id=name)
    for name, text in PAGES.items()
    if name not in ELSEWHERE and any(not NOT_RUN.search(each) for each in commands(text))
]


@pytest.fixture
def project(pytester, monkeypatch):
    """A git repository with a small study that has run, another report, and pictures."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PYTHONPATH", str(Path(robbench.__file__).parents[1]))
    monkeypatch.setenv("PYTEST_ADDOPTS", "-p no:hypothesispytest -p no:anyio")
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    write_folders(Path("photos"), {"rose": 5, "tulip": 5})

    def small():
        Path("suites").mkdir()
        Path("suites/test_mine.py").write_text(SUITE)
        Path(".gitignore").write_text(".robbench/\nreports/\n")
        pytester.runpytest_inprocess("-m", "suite", "suites", "--robbench-update").assert_outcomes(passed=10)
        shutil.copytree("reports/mine", "reports/other")
        for arguments in (("init", "-q"), ("add", "-A"), ("commit", "-q", "-m", "mine")):
            subprocess.run(("git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments), check=True)

    return small


@pytest.mark.parametrize(("page", "lines"), RUN)
def test_every_command_of_a_page_runs(page, lines, project, pytester, capsys):
    """In their order, in one folder. What robbench init writes runs at the quick scale."""
    quick = any("robbench init" in line for line in lines)
    if not quick and page not in WITHOUT_STUDY:
        project()
    for line in lines:
        command, *arguments = words(line)
        if command == "robbench":
            given = ["reports/robustness-quick" if word == "reports/robustness" else word for word in arguments]
            assert main(given) == 0, f"{line}\n{capsys.readouterr().err}"
        else:
            assert command == "pytest", line
            given = [word for word in arguments if word not in ("--robbench-update", "--robbench-quick")]
            result = pytester.runpytest_inprocess(*given, *["--robbench-quick"] * quick)
            assert result.ret == 0, line
            assert result.parseoutcomes()["passed"] >= 2


def test_every_page_is_in_the_navigation():
    """But no other: mkdocs would warn of both."""
    assert {*PAGES} <= {*NAVIGATION}


def headings(page):
    """The anchors of a page, as GitHub names its headings."""
    found = re.findall(r"^#+ (.+)$", CODE_BLOCK.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


LINKING = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "reports/README.md")] + sorted(DOCS.rglob("*.md"))


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_local_links_lead_somewhere(page):
    """To a file, and to a heading in it; docs/generate.py makes the others of the navigation."""
    generated = {DOCS / name for name in NAVIGATION}
    for link in re.findall(r"\]\((?!\w+:)([^)\s]*)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists() or target in generated, link
        assert not anchor or anchor in headings(target), link


@pytest.mark.parametrize("page", LINKING, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_that_is_not_run_could_be(page, pytester):
    """Its verb, target, files and options exist; … stands for arguments."""
    text = page.read_text(encoding="utf-8")
    for line in only_checked(text):
        command, *arguments = words(line)
        named = [word for word in arguments if "/" in word and word.endswith(".py") and f"# {word}\n" not in text]
        assert [name for name in named if not (ROOT / name).exists()] == [], line
        if command == "robbench" and (len(arguments) == 1 or "…" in arguments):
            assert arguments[0] in verbs_of(new_parser()), line
        elif command == "robbench":
            assert parse(arguments).run, line
        elif command == "pytest":
            pytester.parseconfig(*arguments)
        elif command == "make":
            assert re.search(rf"^{arguments[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE), line
        elif command == "python":
            of_suites = arguments[0] == "-m"
            name = arguments[1].replace(".", "/") + ".py" if of_suites else arguments[0]
            if of_suites or named:
                program = (ROOT / name).read_text(encoding="utf-8")
                assert [each for each in arguments[1:] if each.startswith("--") and each not in program] == [], line


def test_the_pages_are_short():
    """Of all words that somebody must read."""
    texts = [page.read_text(encoding="utf-8") for page in DOCS.rglob("*.md")]
    assert sum(len(text.split()) for text in texts) <= 9_000


@pytest.mark.parametrize("page", PAGES)
def test_suite_files_of_a_page_can_be_read(page, tmp_path, monkeypatch):
    """Every field has the name and a value that this version takes."""
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"```python\n# (\S*test_\w+\.py)\n(.*?)```", PAGES[page], re.DOTALL):
        path = tmp_path / Path(name).name
        path.write_text(text, encoding="utf-8")
        assert len(read_studies(path)) == 1
