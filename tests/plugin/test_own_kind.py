"""A kind of stage that a project adds runs by the fixture, and its figures are in the table, the report and the CSV file."""

from __future__ import annotations

import csv
import sys

KIND = """
from robbench.record import Struct
from robbench.stages.kinds import StageKind, add_kind
from robbench.stages.work import Made, images_used


class Sum(Struct, frozen=True, kw_only=True):
    total: float

    def figures(self):
        return {"sum": self.total}


def add_up(work):
    network = work.network("model")
    total = sum(float(value.double().abs().sum()) for value in network.state_dict().values())
    used = images_used(work, train=0, validation=0, test=0)
    return Made(result=Sum(total=total), network=network, data=used)


add_kind(
    StageKind(
        name="weighing",
        result=Sum,
        specs=lambda study, model: {"": "l1"},
        needs=lambda model, spec: {"model": ("training", model)},
        run=add_up,
    )
)
"""

TEST = """

def test_weighing(model, robbench):
    robbench.stage("weighing", model)
"""


def test_a_kind_of_ones_own_is_reported(pytester, write_suite, tmp_path):
    """Its figure stands beside the model's others; robbench without the kind still reads the bundle."""
    pytester.makepyfile(weighing=KIND)
    write_suite(
        ("import pytest\n", "import pytest\n\nimport weighing\n"),
        ("    robbench.estimate(model)\n", "    robbench.estimate(model)\n" + TEST),
    )
    done = pytester.runpytest("-m", "suite", "-k", "(training or weighing) and glyphs10-standard", "--robbench-update")
    done.assert_outcomes(passed=2, deselected=13)
    done.stdout.fnmatch_lines(["*weighing: sum*"])
    report = pytester.path / "reports" / "tiny"
    assert "weighing: sum" in (report / "report.md").read_text()
    with (report / "results.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["weighing: sum"]) > 0
    listed = pytester.run(sys.executable, "-m", "robbench.cli", "verify", str(report))
    assert listed.ret == 3
    listed.stdout.fnmatch_lines(["unproven*weighing*only its own code can check a stage of kind 'weighing'"])
