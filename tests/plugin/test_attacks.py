"""One's own function as a search and in the final test, in L2, from a suite file to ``robbench verify``."""

import pytest

from robbench.cli import main
from robbench.report import read_bundle

OWN = """
def along(network, images, labels, epsilon):
    iterate = images.detach().requires_grad_()
    network(iterate).logsumexp(1).sum().backward()
    return images - epsilon.view(-1, 1, 1, 1) * iterate.grad / iterate.grad.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
"""
ESTIMATE = """estimate=Estimate(
        grid=EpsilonGrid(stop=8.0, step=0.25), attack=PGD(steps=2, random_start=False), images=60, norm="l2", audit=None,
        search=Ensemble(searches=("fast", attack("own_attack:along"))),
        final_test=(attack("own_attack:along", epsilon=0.5),),
    )"""
CASE = "net.mlp-glyphs10-standard"


@pytest.fixture
def in_l2(write_suite, pytester):
    """Run pytest on the tiny suite with such an estimate."""
    how = "grid=EpsilonGrid(stop=1.0, step=0.05), attack=PGD(steps=2, random_start=False), images=60"
    write_suite(("import PGD,", "import PGD, Ensemble, attack,"), (f"estimate=Estimate({how})", ESTIMATE))
    pytester.makepyfile(own_attack=OWN)
    return lambda *options: pytester.runpytest_inprocess("-k", "glyphs10-standard", *options)


def test_an_own_attack_in_l2_is_recorded_reported_and_proven(in_l2, pytester, capsys):
    """Norm, attack and who found it, in record and report; counterexamples at their distance."""
    in_l2("--robbench-update", "--robbench-keep-adversarials").assert_outcomes(passed=2, deselected=8)
    folder = pytester.path / "reports" / "tiny"
    (found,) = (record.robustness for record in read_bundle(folder).records if record.robustness)
    assert (found.norm, found.search) == ("l2", "ensemble of fast and own_attack:along")
    assert found.found_by.keys() == {"fast", "own_attack:along"}
    assert sum(found.found_by.values()) == sum(0 <= place < len(found.grid) for place in found.pstar) > 0
    assert [(each.attack, each.epsilon) for each in found.attacks] == [("own_attack:along", 0.5)]
    report = (folder / "report.md").read_text()
    assert "0 to 8, step 0.25, in L2" in report
    assert f"p\\* found by fast {found.found_by['fast']}" in report
    assert "own_attack:along, ε = 0.5" in report
    capsys.readouterr()
    folders = [text for name in ("store", "data") for text in (f"--{name}", str(pytester.path / ".robbench" / name))]
    main(["verify", str(folder), *folders, "--code", "net"])
    last = capsys.readouterr().out.splitlines()[-1]
    assert f"{sum(found.found_by.values())} counterexamples proven" in last
    assert last.endswith(" 0 problems")


def test_an_attack_that_cannot_be_called_fails_before_anything_is_trained(in_l2, pytester, errors, stages):
    """In one sentence."""
    (pytester.path / "own_attack.py").write_text("")
    result = in_l2()
    assert "attack 'own_attack:along': tried `from own_attack import along`, got " in errors(result)
    assert stages == []
