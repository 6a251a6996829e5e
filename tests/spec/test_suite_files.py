"""Reading the studies of a suite file without running it."""

import pytest

from robbench.errors import RobbenchError
from robbench.spec import describe, read_spec
from robbench.spec.suite_files import read_studies

HEAD = """
import pytest
from robbench import Study, recipes

def make(name):
    return Study(
        name=name, source="mnist", target="emnist", architectures=("cnn7",), standard=recipes.MNIST_STANDARD,
        adversarial=recipes.MNIST_PGD, transfers=(), estimate=recipes.MNIST_ESTIMATE,
    )
"""


def test_studies_are_found_in_markers_of_module_and_tests(tmp_path):
    """Also where no global name holds them."""
    path = tmp_path / "test_two.py"
    path.write_text(
        HEAD + "pytestmark = [pytest.mark.suite(make('one'))]\n\n"
        "@pytest.mark.suite(make('two'))\ndef test_training(model): ...\n"
    )
    assert {study.name for study in read_studies(path)} == {"one", "two"}


def test_a_suite_may_define_a_search_of_its_own(tmp_path):
    """Its annotations may be texts, and its described form reads back."""
    path = tmp_path / "test_own.py"
    own = "class SuiteSearch(Search):\n    every: int = 1\n"
    text = "from __future__ import annotations\nfrom dataclasses import replace\nfrom robbench import Search\n"
    estimate = "estimate=replace(recipes.MNIST_ESTIMATE, search=SuiteSearch(every=2))"
    path.write_text(text + own + (HEAD + "STUDY = make('own')").replace("estimate=recipes.MNIST_ESTIMATE", estimate))
    (study,) = read_studies(path)
    assert read_spec(describe(study.estimate)) == study.estimate
    assert study.estimate.search_name == "suitesearch"


def test_what_cannot_be_read_is_one_sentence(tmp_path):
    """No file, no study, a file that raises, a wrong value."""
    path = tmp_path / "test_bad.py"
    with pytest.raises(RobbenchError, match=r"test_bad\.py': expected a file"):
        read_studies(path)
    for text, message in (
        ("x = 1", "expected a Study, as in"),
        ("import nothing_of_this_name", "cannot be imported: ModuleNotFoundError"),
        (HEAD + "STUDY = make('a b')", "Study name: expected letters"),
    ):
        path.write_text(text)
        with pytest.raises(RobbenchError, match=message):
            read_studies(path)
