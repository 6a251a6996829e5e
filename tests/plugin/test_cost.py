"""What the plugin costs: nothing that a run without suites, or a collection, does not need is imported."""

import subprocess
import sys

import pytest

HEAVY = (
    "torch",
    "torchvision",
    "timm",
    "scipy",
    "pandas",
    "matplotlib",
    "numpy",
    "msgspec",
    "pydantic",
    "jinja2",
    "robbench.spec",
    "robbench.stages",
)


def imported(folder, *options):
    """Exit status of a run in a process of its own, and which heavy modules it had imported at its end."""
    program = (
        f"import sys, pytest; status = pytest.main([*{options!r}, '-q', '-p', 'no:hypothesispytest', '-p', 'no:xdist', "
        f"'-p', 'no:cacheprovider']); print(int(status), *(name for name in {HEAVY!r} if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=folder, check=True)
    status, *names = done.stdout.splitlines()[-1].split()
    return int(status), names


def test_a_run_without_suites_imports_nothing_heavy(pytester):
    """Neither torch nor scipy, pandas, matplotlib or numpy, not even the specs."""
    pytester.makepyfile("def test_it(): pass")
    assert imported(pytester.path) == (0, [])


def test_collecting_a_suite_imports_no_torch(write_suite, pytester):
    """So that ``pytest --collect-only`` answers quickly."""
    write_suite()
    status, names = imported(pytester.path, "--collect-only")
    assert status == pytest.ExitCode.OK
    assert not {"torch", "torchvision", "timm", "scipy", "pandas", "matplotlib"} & set(names)
