"""--robbench-keep-adversarials, from a run to ``robbench verify``."""

from robbench.cli import main
from robbench.report import read_bundle
from robbench.store.store import Store

KEEP = "--robbench-keep-adversarials"


def verify(pytester, capsys):
    """Status and lines of the command on the tiny study's bundle."""
    capsys.readouterr()
    folders = [text for name in ("store", "data") for text in (f"--{name}", str(pytester.path / ".robbench" / name))]
    status = main(["verify", str(pytester.path / "reports" / "tiny"), *folders, "--code", "net"])
    return status, capsys.readouterr().out.splitlines()


def test_a_run_that_keeps_its_counterexamples_can_be_proven(updated, pytester, stages, capsys):
    """Asked for under resume, p* is estimated again, and that is said; then every record is proven, of this part."""
    result = updated("--robbench-update", "--robbench-resume", KEEP)
    result.assert_outcomes(passed=2, deselected=8)
    assert stages == ["net.mlp-glyphs10-standard.robustness"]
    said = "net.mlp-glyphs10-standard: p* is estimated again, the finished stage kept no counterexamples"
    assert result.stdout.lines.count(said) == 1
    status, lines = verify(pytester, capsys)
    assert (status, [line.split()[0] for line in lines[:-1]]) == (3, ["proven", "agrees", "missing"])
    assert lines[2].startswith("missing   tiny: 8 stages have no record: net.mlp-glyphs10-")
    assert lines[-1].startswith("2 records, ")
    assert not lines[-1].startswith("2 records, 0 ")
    assert lines[-1].endswith(" counterexamples proven, incomplete, 0 problems")
    assert said not in updated("--robbench-resume", KEEP).stdout.lines


def test_what_a_worker_says_reaches_the_terminal(updated):
    """Under pytest-xdist, too."""
    result = updated("--robbench-resume", KEEP, "-n", "1")
    assert (
        "net.mlp-glyphs10-standard: p* is estimated again, the finished stage kept no counterexamples"
        in result.stdout.lines
    )


def test_pstar_of_former_weights_is_in_no_report(updated, pytester, stages):
    """A model's weights are exchanged: a run of its training alone leaves p* out, and one of both makes it again."""
    case = "net.mlp-glyphs10-standard"
    store = Store(pytester.path / ".robbench" / "store", run="elsewhere")
    (path,) = [p for p in store.folder.rglob("stage.json") if (p.parent / "weights.safetensors").exists()]
    finished, weights = store.finished(path.parent.name), store.weights(path.parent.name)
    store.finish(finished.record, {name: -value for name, value in weights.items()})
    updated("-k", f"test_training and {case[8:]}", "--robbench-resume").assert_outcomes(passed=1, deselected=9)
    bundle = read_bundle(pytester.path / "reports" / "tiny")
    assert [record.name for record in bundle.records] == [f"{case}.training"]
    assert f"tiny/{case}.robustness" in bundle.missing
    result = updated("--robbench-resume", "--robbench-update")
    assert f"{case}: p* is estimated again, the finished stage is of former weights" in result.stdout.lines
    assert stages == [f"{case}.robustness"]
    assert len(read_bundle(pytester.path / "reports" / "tiny").records) == 2
