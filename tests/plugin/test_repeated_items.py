"""Items that run more than once, as pytest-rerunfailures and pytest-repeat make them: the last verdict of a stage counts."""

import xml.etree.ElementTree as ElementTree

import pytest

from robbench.report import read_bundle

# What `pytest --reruns 1` does (pytest-rerunfailures): the same item again, and what failed is reported as a "rerun".
RERUNS = """
from _pytest.runner import runtestprotocol


def pytest_runtest_protocol(item, nextitem):
    for last in (False, True):
        for report in runtestprotocol(item, nextitem=nextitem, log=False):
            if report.failed and not last:
                report.outcome = "rerun"
            item.ihook.pytest_runtest_logreport(report=report)
            if report.outcome == "rerun":
                item._initrequest()
                break
        else:
            return True
"""

# What `pytest --count 2` does (pytest-repeat): every item twice, by a parameter that no test asks for.
COUNT = """
def pytest_generate_tests(metafunc):
    metafunc.fixturenames.append("repetition")
    metafunc.parametrize("repetition", (1, 2))
"""


@pytest.fixture
def verdicts(pytester):
    """What the last run's bundle says of its stages."""
    return lambda: read_bundle(pytester.path / "reports" / "tiny").verdicts


def test_a_stage_that_is_tried_again_has_one_verdict(write_suite, pytester, verdicts):
    """And its figures stand once in JUnit's XML."""
    pytester.makeconftest(RERUNS)
    call = "    robbench.train(model)"
    first = "    first = not Path('tried').exists()\n    Path('tried').touch()\n    assert not first"
    write_suite((call, f"{call}\n{first}"), ("import pytest\n", "import pytest\nfrom pathlib import Path\n"))
    chosen = ("-k", "glyphs10-standard and training")
    result = pytester.runpytest_inprocess(*chosen, "--robbench-update", "--junitxml=junit.xml")
    assert result.parseoutcomes() == {"passed": 1, "rerun": 1, "deselected": 9}
    assert [(verdict.stage, verdict.mark) for verdict in verdicts()] == [("training", "new")]
    tree = ElementTree.parse(pytester.path / "junit.xml")
    names = [entry.get("name") for entry in tree.iter("property")]
    assert "digest" in names
    assert len(names) == len({*names})


def test_the_last_try_of_a_stage_says_what_is_wrong(write_suite, pytester):
    """In full, as the first one did; the model's other stage refers to it."""
    pytester.makeconftest(RERUNS)
    write_suite()
    pytester.makepyfile(net="def mlp(classes, shape):\n    raise KeyError('fc1; fc2')")
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard", "--robbench-update")
    assert result.parseoutcomes() == {"failed": 2, "rerun": 2, "deselected": 8}
    lines = result.stdout.lines
    said = [line for line in lines if "net:mlp: called with" in line and not line.startswith("FAILED")]
    assert len(said) == 2
    assert said[0].endswith("got KeyError('fc1; fc2')")
    assert said[1].startswith("not run: ")


def test_an_item_that_is_repeated_has_one_verdict(write_suite, pytester, verdicts, stages):
    """The stage is made once."""
    pytester.makeconftest(COUNT)
    write_suite()
    result = pytester.runpytest_inprocess("-k", "glyphs10-standard and training", "--robbench-update")
    result.assert_outcomes(passed=2, deselected=18)
    assert [(verdict.stage, verdict.mark) for verdict in verdicts()] == [("training", "new")]
    assert len(stages) == 1
