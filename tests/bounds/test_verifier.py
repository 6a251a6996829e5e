"""Complete verifiers as programs: what is believed of their answers, and what is not."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch

from robbench.bounds import BoundSearch, Boxes, Certification
from robbench.bounds.queries import vnnlib
from robbench.bounds.verifier import FOLDER, Verification, answered, command_of
from robbench.errors import RobbenchError
from robbench.models import build
from robbench.models.exported import as_onnx
from robbench.spec import Verifier

GRID = [round(0.01 * place, 10) for place in range(21)]

PROGRAM = """
import re, sys
from pathlib import Path
query, result, network = map(Path, sys.argv[1:])
bounds = dict(re.findall(r"\\(assert \\(>= (X_\\d+) ([-.\\d]+)\\)\\)", query.read_text()))
radius = {radius}
{answer}
"""


@pytest.fixture
def asked(tmp_path):
    """Runs a verification of one grey image of a network without a counterexample, by a program that answers so."""

    def ask(answer, confirm=lambda place, image, radius: None, **changes):
        program = tmp_path / "verifier.py"
        program.write_text(PROGRAM.format(radius="round(0.5 - float(bounds['X_0']), 3)", answer=answer))
        problem = Certification(
            network=torch.nn.Flatten(),
            images=torch.full((1, 1, 1, 2), 0.5),
            labels=torch.tensor([1]),
            grid=GRID,
            pstar=torch.tensor([len(GRID)]),
            names=[7],
            classes=3,
        )
        search = BoundSearch(problem, [])
        search.certified[0] = 4
        notes = []
        verification = Verification(
            problem,
            search,
            replace(
                Verifier(engine=f"{sys.executable} {program} {{vnnlib}} {{result}} {{onnx}}", queries=10), **changes
            ),
            asked=[0],
            onnx=b"",
            kept=tmp_path / "kept",
            confirm=confirm,
            notes=notes,
        )
        while not verification.done:
            verification.step()
        return verification, notes

    return ask


def test_a_proof_of_the_radius_below_pstar_makes_it_exact(asked):
    """One query is enough."""
    found, _ = asked('result.write_text("unsat\\n")')
    assert (found.lower.tolist(), found.upper.tolist()) == ([20], [21])
    assert found.verdicts == {"unsat": 1, "sat": 0, "undecided": 0}


def test_a_confirmed_counterexample_lowers_pstar(asked):
    """Down to where it lies; the next query is one step below."""
    answer = 'result.write_text("sat\\n((X_0 0.5)\\n(X_1 0.55))" if radius >= 0.1 else "unsat")'
    found, notes = asked(answer, lambda place, image, radius: 10 if radius >= 0.1 else None)
    assert (found.lower.tolist(), found.upper.tolist(), notes) == ([9], [10], [])


def test_undecided_radii_are_halved_from_below(asked):
    """What a verifier cannot decide stays open, and smaller radii are asked about."""
    found, _ = asked('result.write_text("timeout" if radius > 0.125 else "unsat")')
    assert (found.lower.tolist(), found.upper.tolist()) == ([12], [21])


def test_a_counterexample_that_is_none_is_kept_and_not_counted(asked, tmp_path):
    """A note names image and radius."""
    found, notes = asked('result.write_text("sat\\n((X_0 0.5)\\n(X_1 0.5))")', queries=1)
    assert found.upper.tolist() == [21]
    assert found.verdicts["undecided"] == 1
    assert "image 7 at radius 0.2 that is none" in notes[0]
    assert {path.suffix for path in (tmp_path / "kept").iterdir()} == {".txt", ".vnnlib"}


def test_a_counterexample_within_a_certified_radius_is_an_error_and_kept(asked, tmp_path):
    """It names image, bound and counterexample: one of the two is wrong."""
    says = r"image 7: expected no counterexample up to radius 0\.04.*confirmed at 0\.03, kept as image7_0\.2\.txt"
    with pytest.raises(RobbenchError, match=says):
        asked('result.write_text("sat\\n((X_0 0.5)\\n(X_1 0.53))")', lambda place, image, radius: 3)
    assert (tmp_path / "kept/image7_0.2.txt").read_text().startswith("sat")
    assert "X_0" in (tmp_path / "kept/image7_0.2.vnnlib").read_text()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        ('result.write_text("perhaps")', "got 'perhaps', status 0"),
        ('sys.exit("no licence")', "status 1, and it printed: no licence"),
    ],
)
def test_a_verifier_that_crashes_or_talks_nonsense_is_one_error(asked, answer, says):
    """What came, the status, and the last line that it printed."""
    with pytest.raises(RobbenchError, match=says):
        asked(answer)


@pytest.mark.skipif(not (FOLDER / "vibecheck/bin/vibecheck").is_file(), reason="vibecheck is missing (make verifiers)")
def test_a_complete_verifier_finds_nothing_at_certified_radii():
    """Of a few images of a tiny network: a proof as well, and no counterexample."""
    shape = (1, 28, 28)
    network = build("relu_2_64", classes=10, shape=shape, seed=1).eval()
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        labels = network(images).argmax(1)
    grid = [round(0.001 * place, 10) for place in range(101)]
    pstar, names = torch.full((3,), len(grid)), [0, 1, 2]
    search = BoundSearch(
        Certification(network=network, images=images, labels=labels, grid=grid, pstar=pstar, names=names, classes=10),
        [],
    )
    search.step()
    assert (search.certified > 0).all()
    boxes = Boxes.around(images, torch.tensor(grid, dtype=torch.float64)[search.certified])
    queries = [vnnlib(*box, int(label), 10) for *box, label in zip(boxes.low, boxes.high, labels, strict=True)]
    onnx = as_onnx(network)
    verdicts = [answered(Verifier(seconds=30), onnx, query, "cpu")[0] for query in queries]
    print([grid[place] for place in search.certified.tolist()], verdicts)
    assert "sat" not in verdicts
    assert "unsat" in verdicts


def test_a_verifier_that_is_not_there_is_named(tmp_path):
    """With what installs it."""
    with pytest.raises(RobbenchError, match="verifier nobodys: expected a program"):
        command_of(Verifier(engine="nobodys {onnx} {vnnlib} {result}"), tmp_path)


def test_an_engine_without_places_is_refused():
    """A command must be told its files."""
    with pytest.raises(RobbenchError, match="Verifier engine: expected vibecheck or neuralsat, or a command with"):
        Verifier(engine="abcrown --onnx {onnx}")


def test_queries_hold_the_box_outwards_in_both_versions():
    """All digits of float32, every other class, and nothing else."""
    low, high = torch.tensor([[[0.1, 0.0]]]), torch.tensor([[[0.30000001, 1.0]]])
    first, second = (vnnlib(low, high, 1, 3, version) for version in ("1.0", "2.0"))
    assert "(assert (>= X_0 0.100000001490116119384766))" in first
    assert "(assert (<= X[0,0,0,1] 1))" in second
    assert first.endswith("(assert (or (and (>= Y_0 Y_1)) (and (>= Y_2 Y_1))))\n")
    assert "(declare-input X float32 [1,1,1,2])" in second
