"""Verdicts: which changes count, which fail, which cannot be compared, and how each is said."""

import math
import subprocess
import sys
from dataclasses import dataclass

import msgspec
import pytest
from factories import ENVIRONMENT, make_facts, robustness_record, training_record
from hypothesis import given
from hypothesis import strategies as st

from robbench.errors import RobbenchError
from robbench.gate.baselines import baseline_of
from robbench.gate.verdicts import (
    FIGURES,
    Tolerances,
    Verdict,
    compare,
    judge,
    level_of,
    levels,
    plain_verdict,
    show_pstar,
)
from robbench.record import Counts, Seconds

STEP = 0.01
GRID = [round(i * STEP, 10) for i in range(41)]
FACTS = make_facts()
CENSORED, MISCLASSIFIED = len(GRID), -1
FORTY_STEPS = {"estimate": {"attack": {"steps": 40}}}


def robust(pstar, **changes):
    """A robustness record on this module's grid."""
    return robustness_record(FACTS, pstar, GRID, **changes)


def around(median, images=400):
    """Grid indices of images whose p* spread over five steps either side of a median."""
    return [median - 5 + number % 11 for number in range(images)]


def verdicts(old, new, **tolerances):
    """Verdicts by figure, of a record against the baseline that another makes."""
    found = compare(new, baseline_of(old), Tolerances(**tolerances), 0.01)
    assert len({verdict.figure for verdict in found}) == len(found)
    return {verdict.figure: verdict for verdict in found}


def pstar_mark(old, new, **tolerances):
    """The mark of median p* alone."""
    return verdicts(robust(old), robust(new), **tolerances)["median p*"].mark


@pytest.mark.parametrize(
    ("old", "new", "mark"),
    [
        (around(20), around(20), "="),
        (around(20), around(21), "="),  # 5 % is one step here
        (around(20), around(22), "+"),
        (around(20), around(18), "-"),
        ([2] * 400, [3] * 400, "="),  # half as large again, but one grid step
        ([3] * 400, [2] * 400, "="),
        ([2] * 400, [4] * 400, "+"),
        ([4] * 400, [2] * 400, "-"),
        ([0] * 400, [2] * 400, "+"),
        ([CENSORED] * 400, [CENSORED] * 400, "="),
        ([CENSORED] * 400, [CENSORED - 1] * 400, "-"),
        ([CENSORED - 1] * 400, [CENSORED] * 400, "+"),
        ([5] * 150 + [CENSORED] * 250, [5] * 250 + [CENSORED] * 150, "-"),
        ([5] * 199 + [CENSORED] * 201, [5] * 201 + [CENSORED] * 199, "~"),
        ([5] * 201 + [CENSORED] * 199, [5] * 199 + [CENSORED] * 201, "~"),
        ([20] * 400, [MISCLASSIFIED] * 400, "-"),
        ([MISCLASSIFIED] * 400, [20] * 400, "+"),
        ([MISCLASSIFIED] * 400, [MISCLASSIFIED] * 400, "="),
        ([MISCLASSIFIED] * 100 + around(20, 300), around(20, 400), "="),  # accuracy is another figure
        ([20] * 100, [24] * 53 + [16] * 47, "~"),  # as many rose as fell, but for chance
        ([20] * 100, [16] * 53 + [24] * 47, "~"),
        ([10] * 60 + [30] * 50, [MISCLASSIFIED] * 60 + [29] * 50, "~"),  # most fell, but the median rose
        ([10] * 50 + [30] * 60, [10] * 50 + [MISCLASSIFIED] * 60, "~"),  # a loss of accuracy alone
    ],
)
def test_a_change_of_robustness_counts_when_large_and_significant(old, new, mark):
    """Beyond 5 % of the median and one grid step, and by the sign test; losses fail, gains do not."""
    verdict = verdicts(robust(old), robust(new))["median p*"]
    assert verdict.mark == mark
    assert verdict.fails == (mark == "-")


@pytest.mark.parametrize(("tolerance", "new", "mark"), [(0.2, 16, "="), (0.2, 15, "-"), (0.0, 19, "="), (0.0, 18, "-")])
def test_the_tolerance_of_median_pstar_is_a_share(tolerance, new, mark):
    """20 % of 0.2 are four steps; without any tolerance one step still never counts."""
    assert pstar_mark([20] * 50, [new] * 50, pstar=tolerance) == mark


def test_the_message_of_a_loss_has_all_figures():
    """Both medians, the relative change, the test and the tolerances, in one line."""
    verdict = verdicts(robust([20] * 50), robust([10] * 50))["median p*"]
    assert verdict.message == (
        "median p* 0.2 → 0.1, -50% (it rose on 0 images and fell on 50, p = 1.8e-15, significant below 0.01; "
        "tolerance 5% and one grid step of 0.01)"
    )
    assert (verdict.suite, verdict.case, verdict.stage) == ("demo", "cnn7-mnist-pgd", "robustness")
    assert (verdict.baseline, verdict.current) == (0.2, 0.1)


def test_a_censored_median_is_said_in_words():
    """No infinity in a verdict, which is JSON."""
    verdict = verdicts(robust([CENSORED] * 50), robust([10] * 50))["median p*"]
    assert verdict.message.startswith("median p* beyond the grid → 0.1 (it rose on 0")
    assert (verdict.baseline, verdict.current) == (None, 0.1)
    same = verdicts(robust([CENSORED] * 50), robust([CENSORED] * 50))["median p*"]
    assert same.message.startswith("median p* beyond the grid → beyond the grid, +0% (it rose on 0")
    none = verdicts(robust([10] * 50), robust([MISCLASSIFIED] * 50))["median p*"]
    assert none.message == "median p* 0.1 → none: no image is classified correctly"
    assert [show_pstar(value) for value in (None, math.inf, 0.12345678)] == ["none", "beyond the grid", "0.1235"]


@pytest.mark.parametrize(
    ("new", "what"),
    [
        (robust([20] * 50, spec={"estimate": {"attack": {"steps": 10}}}), "attack.steps: 40 → 10"),
        (robustness_record(FACTS, [2] * 50, GRID[::2], spec=FORTY_STEPS), "another grid or images"),
        (robust([20] * 40, spec=FORTY_STEPS), "another grid or images"),
    ],
)
def test_another_estimate_is_not_comparable_and_fails(new, what):
    """The message names what changed and how to renew the baseline."""
    verdict = verdicts(robust([20] * 50, spec=FORTY_STEPS), new)["median p*"]
    assert (verdict.mark, verdict.fails, verdict.baseline) == ("x", True, None)
    assert verdict.message.endswith(f"was estimated another way ({what}); renew it with --robbench-update")


def test_the_grid_step_is_the_distance_of_its_values():
    """Of a grid that begins at 0.1, has two values, or one."""
    for grid, step in (([0.1, 0.15, 0.2], "0.05"), ([0.0, 0.1], "0.1"), ([0.3], "0")):
        record = robustness_record(FACTS, [0] * 50, grid)
        verdict = verdicts(record, record)["median p*"]
        assert verdict.mark == "="
        assert verdict.message.endswith(f"; tolerance 5% and one grid step of {step})")
    grid = [0.1, 0.2, 0.3]
    old, new = (robustness_record(FACTS, [place] * 50, grid) for place in (2, 0))
    assert verdicts(old, new, pstar=0.1)["median p*"].mark == "-"


def test_other_images_are_not_comparable_and_fail():
    """Told by the SHA-256 of the data, since names repeat."""
    old = robust([20] * 50)
    new = msgspec.structs.replace(old, data=msgspec.structs.replace(old.data, sha256="1" * 64))
    verdict = verdicts(old, new)["median p*"]
    assert (verdict.mark, verdict.fails) == ("x", True)
    assert "other images of 'mnist'" in verdict.message
    assert "accuracy" not in verdicts(old, new)
    trained = training_record(FACTS)
    found = verdicts(trained, msgspec.structs.replace(trained, data=new.data))
    assert {figure: verdict.mark for figure, verdict in found.items()} == {"validation accuracy": "x", "seconds": "="}
    assert found["validation accuracy"].message.startswith("validation accuracy cannot be compared")


def test_a_changed_specification_is_named_beside_a_loss():
    """Up to three fields, so that the reader need not look for the cause."""
    old = robust([20] * 50, spec={"model": {"recipe": {"attack": {"epsilon": 0.2}}}})
    new = robust([10] * 50, spec={"model": {"recipe": {"attack": {"epsilon": 0.02}}}})
    message = verdicts(old, new)["median p*"].message
    assert message.endswith("; the specification changed: model.recipe.attack.epsilon: 0.2 → 0.02")
    many = robust([10] * 50, spec={"a": 1, "b": 2, "c": 3, "d": 4, "model": old.spec["model"]})
    assert verdicts(old, many)["accuracy"].message.endswith("c: null → 3, …")
    three = robust([10] * 50, spec={"a": 1, "b": 2, "c": 3} | old.spec)
    assert verdicts(old, three)["accuracy"].message.endswith("c: null → 3")
    assert "specification" not in verdicts(old, old)["median p*"].message


def of(correct, total):
    """A robustness record with so many correct images."""
    return robust([20] * correct + [MISCLASSIFIED] * (total - correct))


def validated(correct, total):
    """A training record with so many correct validation images."""
    record = training_record(FACTS)
    right = Counts(correct=correct, total=total)
    training = msgspec.structs.replace(record.training, epochs=[], best=0, validation=right)
    return msgspec.structs.replace(record, result=training)


@pytest.mark.parametrize(
    ("old", "new", "mark"),
    [
        ((900, 1000), (900, 1000), "="),
        ((900, 1000), (800, 1000), "-"),
        ((800, 1000), (900, 1000), "+"),
        ((18, 20), (16, 20), "~"),
        ((9000, 10_000), (8900, 10_000), "="),
        ((9900, 10_000), (9799, 10_000), "-"),
        ((9799, 10_000), (9900, 10_000), "+"),
        ((900, 1000), (889, 1000), "~"),
        ((900, 1000), (870, 1000), "~"),  # p = 0.04
        ((900, 1000), (855, 1000), "-"),  # p = 0.003
    ],
)
def test_a_change_of_accuracy_counts_when_large_and_significant(old, new, mark):
    """Beyond one point, and significant at 1 % in Fisher's test, since validation accuracy knows counts alone."""
    verdict = verdicts(validated(*old), validated(*new))["validation accuracy"]
    assert (verdict.mark, verdict.fails) == (mark, mark == "-")
    assert (verdict.baseline, verdict.current) == (old[0] / old[1], new[0] / new[1])


def test_the_message_of_a_change_of_accuracy():
    """Both shares, the change in points, the test and the tolerance."""
    verdict = verdicts(of(900, 1000), of(790, 1000), accuracy=0.12)["accuracy"]
    assert verdict.mark == "="
    assert verdict.message.startswith("accuracy 90.0% → 79.0% (-11.0 points of 1,000 images, p = ")
    assert verdict.message.endswith(", significant below 0.01; tolerance 12 points)")


def test_a_training_stage_without_validation_images_has_no_accuracy_to_hold():
    """None of none is no accuracy: its seconds alone are compared."""
    assert verdicts(validated(0, 0), validated(0, 0)).keys() == {"seconds"}


@pytest.mark.parametrize(
    ("old", "new", "mark"),
    [
        (10.0, 12.4, "="),
        (10.0, 12.5, "="),
        (10.0, 12.6, "-"),
        (10.0, 8.1, "="),
        (10.0, 7.9, "+"),
        (1.0, 2.9, "="),
        (1.0, 3.1, "-"),
        (3.1, 1.0, "+"),
        (0.0, 0.0, "="),  # of a user's checkpoint
        (0.0, 1.0, "="),
        (0.0, 2.5, "-"),
        (1.0, 3.0, "="),  # the floor itself
        (20.0, 25.0, "="),  # the factor itself
        (20.0, 16.0, "="),
        (20.0, 15.9, "+"),
    ],
)
def test_seconds_count_beyond_factor_and_floor(old, new, mark):
    """A factor of 1.25 and two seconds; a second more on a short stage is noise."""
    verdict = verdicts(training_record(FACTS, old), training_record(FACTS, new))["seconds"]
    assert (verdict.mark, verdict.fails) == (mark, mark == "-")


def test_the_tolerances_of_seconds():
    """Both must be exceeded."""
    old, new = training_record(FACTS, 10.0), training_record(FACTS, 25.0)
    assert verdicts(old, new, seconds=3.0)["seconds"].mark == "="
    assert verdicts(old, new, seconds_floor=20.0)["seconds"].mark == "="
    verdict = verdicts(old, new)["seconds"]
    assert verdict.message == "10.0 s → 25.0 s on cpu-2core (×2.50; tolerance ×1.25 and 2 s)"


def test_seconds_of_a_busy_machine_say_so():
    """They fail all the same: the baseline's may be as bad. The message says where to look."""
    new = msgspec.structs.replace(training_record(FACTS), seconds=Seconds(training=20.0, waiting_for_core=8.0))
    verdict = verdicts(training_record(FACTS, 10.0), new)["seconds"]
    assert verdict.fails
    assert verdict.message.endswith("; the machine was busy, 40% of the time a thread waited for a core")


def test_changed_code_is_named_beside_a_loss():
    """The digest alone tells of it, where the specification is the same."""
    told = verdicts(robust([20] * 50), robust([10] * 50, digest="1" * 64))
    changed = "the code behind cnn7 changed, its specification did not"
    assert told["median p*"].message.endswith(f"; {changed}")
    assert told["seconds"].message == f"seconds not comparable: {changed}"


def test_seconds_of_another_machine_are_shown_and_do_not_fail():
    """The machines that have a baseline are named."""
    elsewhere = msgspec.structs.replace(ENVIRONMENT, slug="nvidia-h200")
    new = training_record(FACTS, 99.0, environment=elsewhere)
    verdict = verdicts(training_record(FACTS), new)["seconds"]
    assert (verdict.mark, verdict.fails, verdict.current) == ("x", False, 99.0)
    assert verdict.message == "seconds not comparable: no baseline on nvidia-h200 (there is: cpu-2core)"


def test_seconds_of_another_specification_are_shown_and_do_not_fail():
    """Less work takes less time."""
    new = training_record(FACTS, 99.0, digest="1" * 64, spec={"epochs": 9})
    verdict = verdicts(training_record(FACTS), new)["seconds"]
    assert (verdict.mark, verdict.fails, verdict.baseline, verdict.current) == ("x", False, 10.0, 99.0)
    assert verdict.message == "seconds not comparable: the specification changed"


@given(st.lists(st.integers(MISCLASSIFIED, CENSORED), min_size=1, max_size=60))
def test_a_record_is_equal_to_the_baseline_it_makes(places):
    """Every figure of every distribution, whatever is wrong or censored in it."""
    record = robust(places)
    found = verdicts(record, record)
    assert {name: verdict.mark for name, verdict in found.items()} == {
        "accuracy": "=",
        "median p*": "=",
        "seconds": "=",
    }


@given(st.lists(st.tuples(*[st.integers(MISCLASSIFIED, CENSORED)] * 2), min_size=1, max_size=40))
def test_only_losses_fail_and_verdicts_are_plain_json(pairs):
    """A failing figure is smaller than its baseline's; no NaN and no infinity is sent to the controller."""
    old, new = map(list, zip(*pairs, strict=True))
    for verdict in verdicts(robust(old), robust(new)).values():
        assert verdict.fails == (verdict.mark == "-")
        if verdict.fails and None not in (verdict.baseline, verdict.current):
            assert verdict.current < verdict.baseline
        assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
        assert "\n" not in verdict.message
        assert "nan" not in verdict.message


def test_a_figure_is_tested_at_its_share_of_five_percent():
    """Two models of a study have six figures, of another kind of stage one each; every suite has its own level."""
    assert level_of([]) == 0.05
    assert level_of(["training", "robustness"] * 2) == 0.05 / 6
    assert level_of(["training", "robustness", "weighing"]) == 0.05 / 4
    elsewhere = msgspec.structs.replace(robust([20]), suite="other")
    assert levels([training_record(FACTS), robust([20]), elsewhere]) == {"demo": 0.05 / 3, "other": 0.05 / 2}


@pytest.mark.parametrize(("level", "mark"), [(0.02, "-"), (0.01, "~")])
def test_a_loss_is_held_to_the_level(level, mark):
    """Seven of 100 images lost and none won: p = 1/64; seven of p* fell, and none rose."""
    old = robust([20] * 7 + [30] * 7 + [20] * 7)
    new = robust([15] * 7 + [30] * 7 + [MISCLASSIFIED] * 7)
    found = {verdict.figure: verdict.mark for verdict in compare(new, baseline_of(old), Tolerances(), level)}
    assert found["accuracy"] == mark
    fell = compare(robust([15] * 7), baseline_of(robust([20] * 7)), Tolerances(), level)
    assert {verdict.figure: verdict.mark for verdict in fell}["median p*"] == mark


def test_every_tested_figure_is_counted():
    """The verdicts of both kinds of stages, but for seconds, are as many as the level is divided by."""
    for record in (training_record(FACTS), robust([20] * 5)):
        assert len(judge(record.result, record, baseline_of(record), Tolerances(), 0.05)) == FIGURES[record.stage]


def test_another_kind_of_stage_is_held_to_its_seconds_until_it_brings_a_judge():
    """Which gets record and baseline, and returns verdicts on its own figures."""

    @dataclass(frozen=True)
    class Weight:
        proven: int

    record = msgspec.structs.replace(training_record(FACTS), stage="weighing", result=Weight(proven=3))
    assert verdicts(record, record).keys() == {"seconds"}
    judge.register(
        Weight,
        lambda result, record, *rest: [plain_verdict(record.suite, record.name, "-", f"proven: {result.proven}")],
    )
    assert verdicts(record, record)["result"].message == "proven: 3"


def test_importing_the_gate_is_cheap():
    """Every pytest run that has robbench installed imports it."""
    program = "import sys, robbench.gate.verdicts; sys.exit('scipy' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (
            {"pstra": 0.1},
            "unknown tolerance 'pstra'; expected one of accuracy, pstar, seconds, seconds_floor (did you mean",
        ),
        ({"accuracy": -0.1}, "tolerance accuracy: expected a number ≥ 0, got -0.1"),
        ({"seconds": 0.9}, "tolerance seconds: expected a number ≥ 1, got 0.9"),
        ({"pstar": "5 %"}, "tolerance pstar: expected a number ≥ 0, got '5 %'"),
    ],
)
def test_impossible_tolerances_are_refused(given_, message):
    """A typo must not silently leave the default in place."""
    with pytest.raises(RobbenchError) as caught:
        Tolerances.of(given_)
    assert str(caught.value).startswith(message)


def test_a_marker_may_set_each_tolerance():
    """None at all, and for seconds infinitely much, are tolerances; the others keep their defaults."""
    assert Tolerances.of({}) == Tolerances(pstar=0.05, accuracy=0.01, seconds=1.25, seconds_floor=2.0)
    assert Tolerances.of({"pstar": 0, "seconds": math.inf}) == Tolerances(pstar=0, seconds=math.inf)
