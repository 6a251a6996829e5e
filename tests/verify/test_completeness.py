"""robbench verify: records that were left out, or counted twice, are found."""

from __future__ import annotations

import re

import pytest
from alterations import SOURCE, TARGET, digest, edit, render_again

from robbench.cli import main

TRAINED, TESTED = f"one/{SOURCE.id}.training", f"one/{SOURCE.id}.robustness"


def name_of(record):
    """As the plan has it."""
    return f"{record['suite']}/{record['case']}.{record['stage']}"


@pytest.fixture
def without(place):
    """Leave out records, and what else of the plan or the list of missing stages; the files say what is left."""

    def leave(records, *, plan=lambda name: False, missing=()):
        def change(values):
            values["records"] = [record for record in values["records"] if not records(record)]
            values["plan"] = {name: digest for name, digest in values["plan"].items() if not plan(name)}
            values["missing"] = list(missing)

        edit(place.records, change)
        render_again(place)

    return leave


def found(lines, mark):
    """The lines of a mark, without it."""
    return [line.partition("  ")[2].strip() for line in lines if line.startswith(f"{mark} ")]


REMOVED = {
    "one record": lambda record: name_of(record) == TESTED,
    "one model": lambda record: record["case"] == TARGET.id,
    "every p*": lambda record: record["stage"] == "robustness",
    "one study": lambda record: record["suite"] == "two",
}


def test_names_of_missing_stages_do_nothing_to_a_terminal(verified, without):
    """No escape sequence, line of their own or turned text, whatever a bundle says is missing."""
    without(lambda record: False, missing=["a\x1b]0;b\x07/c\u202e\nproblem   d\x9b.training"])
    _, lines = verified()
    (line,) = found(lines, "missing")
    assert line == "a]0;b: 1 stages have no record: c problem   d.training"
    assert all(line.isprintable() for line in lines)


@pytest.mark.parametrize("name", REMOVED)
def test_a_stage_of_the_plan_without_a_record_is_a_problem(place, verified, without, name):
    """Each of them is named, though every file of the bundle says what the remaining records say."""
    plan = {name_of(record) for record in json_of(place)["records"] if REMOVED[name](record)}
    without(REMOVED[name])
    status, lines = verified()
    assert status == 1
    assert {line.partition(": ")[0] for line in found(lines, "problem")} == plan
    assert all(
        line.endswith("the plan asks for it, but it is neither recorded nor listed as missing; the store has it")
        for line in found(lines, "problem")
    )


def json_of(place):
    """The bundle's values."""
    values = {}
    edit(place.records, values.update)
    return values


def test_missing_stages_are_said_and_nothing_is_taken_for_whole(verified, without):
    """What a run did not come to is no problem, and no proof of the study either."""
    without(lambda record: record["case"] == TARGET.id and record["suite"] == "one", missing=MISSING)
    status, lines = verified()
    assert status == 3
    assert found(lines, "missing") == [
        f"one: 2 stages have no record: {TARGET.id}.robustness, {TARGET.id}.training; the store has 2 of them, "
        "--robbench-resume takes in what still holds"
    ]
    assert re.fullmatch(r"6 records, \d+ counterexamples proven, incomplete, 0 problems", lines[-1])


MISSING = [f"one/{TARGET.id}.{stage}" for stage in ("training", "robustness")]


BAD = {
    "no record": (lambda values: values.update(records=[]), "verify: expected a bundle with records, "),
    "a record listed twice": (
        lambda values: values["records"].append(values["records"][0]),
        f"expected one record of each stage, got several of one/{min(SOURCE.id, TARGET.id)}.robustness",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_error(place, capsys, name):
    """Nothing is checked of a bundle without records, nor of one whose counterexamples would count twice."""
    change, message = BAD[name]
    edit(place.records, change)
    assert main(["verify", str(place.bundle), "--store", str(place.folder / "store")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err


def test_a_bundle_without_a_plan_says_so(place, verified):
    """An older version wrote it: all that it has is proven, but nobody knows what it had."""
    edit(place.records, lambda values: values.pop("plan"))
    status, lines = verified()
    assert status == 3
    assert [line.partition(" (")[0] for line in found(lines, "unproven")] == [
        f"{study}: completeness: the bundle has no plan of this study" for study in ("one", "two")
    ]
    assert lines[-1].endswith(" counterexamples proven, 0 problems")


def test_without_a_plan_what_rests_on_no_record_is_named(verified, without):
    """A p* without its model's training, and a transfer without its source's."""
    without(lambda record: name_of(record) == TRAINED, plan=lambda name: True)
    status, lines = verified()
    assert status == 3
    said = [line for line in found(lines, "unproven") if "completeness" not in line]
    assert said == [
        f"{TESTED}: the training of its model, {SOURCE.id}, has no record",
        f"one/{TARGET.id}.training: the training of its source, {SOURCE.id}, has no record",
    ]


def test_a_bundle_without_any_pstar_proves_nothing(verified, without):
    """Even where no plan gives it away."""
    without(lambda record: record["stage"] == "robustness", plan=lambda name: True)
    status, lines = verified()
    assert status == 3
    assert "bundle: no p* is recorded, so there is nothing to prove" in found(lines, "unproven")


def test_a_record_that_the_plan_does_not_ask_for_is_a_problem(place, verified, without):
    """By its name, or by its digest."""
    without(lambda record: False, plan=lambda name: name == TESTED)
    edit(place.records, lambda values: values["plan"].update({TRAINED: digest()}))
    status, lines = verified()
    assert status == 1
    assert found(lines, "problem") == [
        f"{TESTED}: recorded, but the plan of its study does not ask for it",
        f"{TRAINED}: digest: expected that of the plan, {digest()[:12]}…, got {SOURCE.digest[:12]}…",
    ]
