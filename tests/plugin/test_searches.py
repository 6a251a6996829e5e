"""A study that asks for a second search of some models: items, baselines, report, and what the store has."""

import pytest

from robbench.planning.plan import of_item, plan
from robbench.report import read_bundle
from robbench.spec.suite_files import read_studies

SECOND = """

def test_second_search(model, search, robbench):
    robbench.estimate(model, search)
"""
ITEMS = [f"test_tiny.py::test_second_search[net.mlp-{name}-fast]" for name in ("glyphs10-pgd", "glyphs47-pgd")]


@pytest.fixture
def two(write_suite, pytester):
    """Run pytest on the tiny suite with p* by ``fast``, too, of the adversarially trained models."""
    how = "grid=EpsilonGrid(stop=1.0, step=0.05), attack=PGD(steps=2, random_start=False), images=60"
    also = f'also=(Also(estimate=Estimate({how}, search="fast"), models=("*-pgd",)),)'
    write_suite(
        ("import PGD,", "import PGD, Also,"),
        (f"    estimate=Estimate({how}),", f'    estimate=Estimate({how}, search="reference"),\n    {also},'),
        ("    robbench.estimate(model)\n", "    robbench.estimate(model)\n" + SECOND),
    )
    return pytester.runpytest_inprocess


def test_the_second_search_is_a_stage_with_a_name_of_its_own(two, pytester, stages):
    """Items of the asked models; its baseline beside the first one's; table and warning in the report; then held to it."""
    listed = two("--collect-only", "-q").stdout.lines
    assert [line for line in listed if "second" in line] == ITEMS
    part = ("-k", "glyphs10-pgd and not training")
    two(*part, "--robbench-update").assert_outcomes(passed=2, deselected=10)
    case = "net.mlp-glyphs10-pgd"
    assert stages == [f"{case}.training", f"{case}.robustness", f"{case}.robustness-fast"]
    files = {path.name for path in (pytester.path / "baselines" / "tiny").iterdir()}
    assert files == {f"{case}.robustness.json", f"{case}.robustness-fast.json"}
    folder = pytester.path / "reports" / "tiny"
    searches = {record.stage: record.robustness.search for record in read_bundle(folder).records if record.robustness}
    assert searches == {"robustness": "reference", "robustness-fast": "fast"}
    assert "Median p* by two searches" in (folder / "report.html").read_text(encoding="utf-8")
    two("-k", "second and glyphs10").assert_outcomes(passed=1, deselected=11)
    again = read_bundle(folder)
    assert len(stages) == 3
    assert {record.stage for record in again.records} == {"training", "robustness", "robustness-fast"}
    assert {verdict.stage for verdict in again.verdicts} == {"robustness-fast"}


def test_an_unknown_search_is_named(two, pytester, errors):
    """With the stages that the study asks of the model."""
    path = pytester.path / "test_tiny.py"
    path.write_text(path.read_text().replace("robbench.estimate(model, search)", 'robbench.estimate(model, "fats")'))
    result = two("-k", "second and glyphs10", "--robbench-quick")
    assert "unknown stage of net.mlp-glyphs10-pgd in study 'tiny-quick' 'robustness-fats'" in errors(result)


def test_the_plan_has_its_stages(two, pytester):
    """And a single item of it needs the training alone."""
    (study,) = read_studies(pytester.path / "test_tiny.py")
    planned = plan(study, pytester.path)
    found = of_item(planned, study, "test_second_search[net.mlp-glyphs10-pgd-fast]")
    assert [stage.stage for stage in found] == ["training", "robustness-fast"]
    assert found[1].work.backward > 0
