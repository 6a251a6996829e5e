"""What the package asks of others agrees with itself, whichever installer reads it."""

import os
import subprocess
import sys
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def asked(name, extras=frozenset(), seen=None):
    """Every requirement of a distribution and of what it requires, as (who asks, requirement)."""
    seen = set() if seen is None else seen
    found = []
    for text in distribution(name).requires or ():
        requirement = Requirement(text)
        wanted = requirement.marker is None or any(
            requirement.marker.evaluate({"extra": extra}) for extra in (extras or {""})
        )
        if wanted:
            found.append((name, requirement))
            if (key := (canonicalize_name(requirement.name), frozenset(requirement.extras))) not in seen:
                seen.add(key)
                found += asked(requirement.name, key[1], seen)
    return found


@pytest.mark.parametrize("extras", [frozenset(), frozenset({"audit"})], ids=["plain", "audit"])
def test_nothing_pins_what_others_need_newer(extras):
    """Plain pip, which knows no overrides, could not install recent versions beside it."""
    found = asked("robbench", extras)
    assert {name.name for who, name in found if who == "robbench"} >= {"torch", *({"pyautoattack"} & extras)}
    refused = [
        f"{who} requires {requirement}, installed is {distribution(requirement.name).version}"
        for who, requirement in found
        if not requirement.specifier.contains(distribution(requirement.name).version, prereleases=True)
    ]
    assert refused == []


ROOT = Path(__file__).parents[1]


@pytest.mark.wheel
def test_a_first_study_from_the_wheel_in_an_empty_environment(tmp_path):
    """With WHEEL_PYTHON, or else the Python of these tests: init, doctor, and every stage at the quick scale."""
    environment, project, scripts = tmp_path / "empty", tmp_path / "project", tmp_path / "empty" / "bin"
    uv = str(Path(sys.executable).with_name("uv"))
    python = os.environ.get("WHEEL_PYTHON", sys.executable)
    subprocess.run((uv, "build", "--quiet", "--wheel", "--out-dir", tmp_path, ROOT), check=True)
    (wheel,) = tmp_path.glob("*.whl")
    subprocess.run((uv, "venv", "--quiet", "--python", python, environment), check=True)
    subprocess.run((uv, "pip", "install", "--quiet", "--python", scripts / "python", wheel), check=True)
    project.mkdir()
    alone = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    for command in (
        ("robbench", "init"),
        ("robbench", "doctor"),
        ("pytest", "-m", "suite", "suites", "--robbench-quick"),
    ):
        subprocess.run((scripts / command[0], *command[1:]), cwd=project, env=alone, check=True)
    assert (project / "reports" / "robustness-quick" / "report.html").stat().st_size > 10_000


def test_the_version_is_the_same_everywhere():
    """In the metadata, the citation and the changelog."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["version"] == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
