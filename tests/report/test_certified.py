"""Certified radii in a report: table, answers, picture, and what must be named."""

from __future__ import annotations

import msgspec
from factories import GRID, make_facts, make_group, robustness_record, training_record

from robbench.record import LowerBounds
from robbench.report.bundle import Bundle, render
from robbench.report.certified import certified_answers, certified_table, exactness, one_class


def bounded(method="pgd", dataset="mnist", k=None, lower=(1, 1, 2, -1), upper=(2, 3, 3, -1), facts=None, **changes):
    """The estimate of a model and its bounds on four images, thirty times over."""
    facts = make_facts(method, dataset, k, **(facts or {}))
    tested = robustness_record(facts, [*upper] * 30)
    result = LowerBounds(
        grid=GRID, method="crown", images=[*range(120)], lower=[*lower] * 30, upper=[*upper] * 30, **changes
    )
    return [tested, msgspec.structs.replace(tested, stage="bounds", result=result)]


def records():
    """A source, two transfers from it, and two models from scratch."""
    return [
        *bounded(),
        *bounded("transfer", "emnist", 1, lower=(0, 1, 1, -1)),
        *bounded("transfer", "emnist", 2, lower=(0, 0, 0, 1), upper=(1, 1, 2, 2)),
        *bounded("standard", "emnist", lower=(0, 0, 0, 0), upper=(1, 1, 1, 1)),
        *bounded(
            "pgd",
            "emnist",
            lower=(1, 1, 2, 2),
            upper=(2, 2, 3, 3),
            verified=[0, 1],
            verifier="vibecheck",
            verdicts={"unsat": 2},
        ),
    ]


def test_both_sides_stand_side_by_side():
    """Medians, share exact of the correct images, certified and robust accuracy of all."""
    table = certified_table(make_group(*records())).set_index("Model")
    row = table.loc["PGD MNIST"]
    assert [row["median certified radius"], row["median p\\*"], row["exact"]] == ["0.100", "0.300", "66.7%"]
    assert row["clean accuracy"] == "75.0%"
    assert row.iloc[-2] == "75.0% … 75.0%"


def test_a_transfer_keeps_a_share_of_its_source():
    """The transfer with the largest certified radius, which need not be that with the largest p*."""
    (answer,) = certified_answers(make_group(*records()))
    assert answer.best.facts.k == 1
    assert answer.retention.value == 1.0
    assert answer.scratch.label == "PGD EMNIST"
    assert answer.relative.value < 1


def test_a_model_that_always_gives_one_class_is_named():
    """In the table and beside it."""
    group = make_group(*bounded(one_class="7"))
    assert one_class(group) == ["PGD MNIST (7)"]
    assert certified_table(group).iloc[0, 0] == "PGD MNIST (one class)"


def test_what_a_verifier_decided_is_counted():
    """How many images are exact; how many p* it lowered; what p* was before it spoke, against the exact value."""
    found = records()
    tested = found[-2]
    pstar = [4, *tested.result.pstar[1:]]
    found[-2] = msgspec.structs.replace(tested, result=msgspec.structs.replace(tested.result, pstar=pstar))
    (verified,) = exactness(make_group(*found))
    assert (verified.name, verified.bounds.verified_exact) == ("PGD EMNIST", 2)
    assert (verified.lowered, verified.unchanged, verified.largest) == (1, 1, 2.0)
    text = render(Bundle(title="demo", command="pytest", records=found))["report.md"].decode()
    assert "p\\* is exact for 2 of them. The search had found it for 1 of these; its largest p\\* ÷ ε\\* is 2" in text
    assert "lower p\\* of 1 image in this section only" in text


def test_a_bundle_with_bounds_renders():
    """Table, answer and picture are in the page; other pages say nothing of it."""
    files = render(Bundle(title="demo", command="pytest", records=records()))
    text = files["report.md"].decode()
    assert "**What is proved.**" in text
    assert "TL#1 has the largest median certified radius" in text
    assert any("brackets" in name for name in files)
    without = render(Bundle(title="demo", command="pytest", records=[each for each in records() if each.robustness]))
    assert "certified" not in without["report.md"].decode()


def test_a_factor_of_seconds_on_a_busy_machine_is_no_result():
    """As beside p* for the same trainings."""
    found = records()
    for place, seconds in ((2, 10.0), (8, 40.0)):
        found.append(training_record(found[place].model, seconds))
    said = "times faster, which is no measure, since the machine was busy with other work."
    for waiting in (0.0, 20.0):
        slow = msgspec.structs.replace(found[-1].seconds, waiting_for_core=waiting)
        found[-1] = msgspec.structs.replace(found[-1], seconds=slow)
        text = render(Bundle(title="demo", command="pytest", records=found))["report.md"].decode()
        assert "the transfer was trained 4 times faster" in text
        assert (said in text) == bool(waiting)


def test_the_page_has_them_too():
    """A table to sort, and certified accuracy over the radius."""
    page = render(Bundle(title="demo", command="pytest", records=records()))["report.html"].decode()
    assert "Certified radii: no image nearer has another class" in page
    assert "right and certified, of all bounded images" in page
