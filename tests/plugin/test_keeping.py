"""--robbench-keep-adversarials, from a run to ``robbench verify``."""

from robbench.cli import main

KEEP = "--robbench-keep-adversarials"


def test_a_run_that_keeps_its_counterexamples_can_be_proven(updated, pytester, stages, capsys):
    """Asked for later, p* alone is estimated again; then every record is proven, and the other stages are missing."""
    updated("--robbench-update", KEEP).assert_outcomes(passed=2, deselected=8)
    assert stages == ["net.mlp-glyphs10-standard.robustness"]
    capsys.readouterr()
    folders = [text for name in ("store", "data") for text in (f"--{name}", str(pytester.path / ".robbench" / name))]
    status = main(["verify", str(pytester.path / "reports" / "tiny"), *folders, "--code", "net"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert (status, [line.split()[0] for line in lines]) == (3, ["proven", "agrees", *["missing"] * 8])
    assert last.startswith("2 records, ")
    assert not last.startswith("2 records, 0 ")
    assert last.endswith(" 0 problems")
    updated(KEEP)
    assert len(stages) == 1
