"""What ``report.md`` says, word for word where it matters."""

import msgspec
import pytest
from factories import both_records, make_facts, robustness_record

from robbench.gate.verdicts import Verdict
from robbench.record import Record
from robbench.report.markdown import escape, fenced, pstar, signed, times, whole_ranges
from robbench.report.prose import headline, report_text
from robbench.report.rows import group_records


def text(records: list[Record], verdicts: list[Verdict] | None = None, notes: tuple[str, ...] = ()) -> str:
    """The report without pictures."""
    groups = group_records(records)
    return report_text(groups, {}, title="A study", command="pytest -m suite", notes=notes, verdicts=verdicts or ())


def verdict(mark: str, figure: str = "accuracy", case: str = "cnn7-mnist-pgd") -> Verdict:
    """A verdict on one figure."""
    return Verdict(suite="demo", case=case, stage="robustness", figure=figure, mark=mark, message=f"it is {mark}")


STUDY = [
    *both_records(make_facts("pgd", "mnist"), [4] * 9, 100.0),
    *both_records(make_facts("pgd", "emnist"), [3] * 9 + [-1], 400.0),
    *both_records(make_facts("transfer", "emnist", 1), [2] * 8 + [-1] * 2, 10.0),
    *both_records(make_facts("transfer", "emnist", 2), [1] * 10, 10.0),
]


CASES = {0: "cnn7-mnist-pgd", 1: "cnn7-emnist-TL1", 2: "cnn7-emnist-pgd"}


def test_the_answers_carry_figures() -> None:
    """TL#1 keeps half of 0.4, two thirds of 0.3, and is 40 times faster; what was not run is said."""
    report = text(STUDY)
    for sentence in (
        "TL#1 is the most robust of 2 transferred models (k = 1–2): median p\\* **0.2** at 80.0% clean accuracy.",
        "Retention: **50.0%** of the 0.4 of PGD MNIST (99% interval 50.0% to 50.0%).",
        "n/a (not run: the conventionally trained target model)",
        "Median p\\* falls most after k = 1: 0.2 at k = 1, 0.1 at k = 2 (the drop point; the same in 100% of the "
        "bootstrap resamplings).",
        "Relative robustness: **66.7%** of the 0.3 of PGD EMNIST",
        "Clean accuracy: 80.0% against 90.0% (**-10.0 points**, 99% interval",
        "Robust accuracy at ε = 0.3: 0.0% against 0.0% (**0.0 points**, 99% interval 0.0 to 0.0).",
        "TL#1 trained in 10.0 s, PGD EMNIST from scratch in 400 s: **40 times faster**.",
        "With the source model's 100 s counted in: 3.64 times faster.",
    ):
        assert sentence in report


@pytest.mark.parametrize(("busy", "factors"), [(1, 2), (2, 2), (0, 1)])
def test_a_factor_of_seconds_on_a_busy_machine_is_no_result(busy: int, factors: int) -> None:
    """Whichever of the two it was that waited; where it was the source, that with its seconds."""
    records = [*STUDY]
    place = next(at for at, record in enumerate(records) if (record.case, record.stage) == (CASES[busy], "training"))
    seconds = msgspec.structs.replace(records[place].seconds, waiting_for_core=0.5 * records[place].seconds.measured)
    records[place] = msgspec.structs.replace(records[place], seconds=seconds)
    report = text(records)
    assert report.count("times faster, which is no measure, since the machine was busy with other work.") == factors
    assert "counted in: 3.64 times faster, which is no measure" in report
    assert ("**40 times faster**" in report) == (factors == 1)


def test_verdict_comes_first_and_only_what_changed() -> None:
    """The headline follows the title; equal and new figures get no line of the table."""
    report = text(STUDY, [verdict("="), verdict("new"), verdict("-", case="worse")])
    assert report.startswith("# A study\n\n**Failed: 1 regression, 1 new baseline, of 3 figures.**\n\n|")
    assert "demo/worse" in report
    assert "it is -" in report
    assert "it is =" not in report
    assert "it is new" not in report


@pytest.mark.parametrize(
    ("marks", "line"),
    [
        ("", "No comparison was made."),
        ("= + ~", "Passed: 3 figures compared."),
        ("= x", "Passed: 1 figure compared, 1 not comparable."),
        ("- - =", "Failed: 2 regressions, of 3 figures."),
        ("missing =", "Failed: 1 without a baseline, of 2 figures."),
        ("new new", "Nothing compared: 2 new baselines."),
        ("quick quick", "Quick scale: compared with nothing."),
    ],
)
def test_headline(marks: str, line: str) -> None:
    """One line says how the comparison went."""
    assert headline([verdict(mark, figure="seconds") for mark in marks.split()]) == line


@pytest.mark.parametrize(
    ("marks", "lacking", "line"),
    [
        ("= = x", 3, "Passed so far: 2 figures compared, 1 not comparable; 3 stages of the study not compared."),
        ("- =", 1, "Failed: 1 regression, of 2 figures; 1 stage of the study not compared."),
        ("new", 2, "Nothing compared: 1 new baseline; 2 stages of the study not compared."),
    ],
)
def test_a_study_of_which_stages_were_not_compared_has_not_passed(marks: str, lacking: int, line: str) -> None:
    """As after an interruption, or with ``-k``."""
    assert headline([verdict(mark, figure="seconds") for mark in marks.split()], lacking) == line


@pytest.mark.parametrize(
    ("factor", "words"),
    [(64.2, "64.2 times faster"), (1.004, "as fast"), (0.996, "as fast"), (0.943, "0.943 times as fast")],
)
def test_a_factor_of_time_in_words_is_the_figure_of_the_tables(factor: float, words: str) -> None:
    """Slower too, so that the two never seem to differ."""
    assert times(factor) == words


def test_an_incomparable_median_fails() -> None:
    """A median p* that cannot be compared fails its item, and the headline says failed."""
    assert headline([verdict("x", "median p*")]) == "Failed: 1 not comparable, of 1 figure."


def test_a_censored_source_gives_a_bound() -> None:
    """The source's median lies past 0.4, so retention is less than a half, not a number."""
    records = [*both_records(make_facts(), [5] * 5), *both_records(make_facts("transfer", "emnist", 1), [2] * 5)]
    assert "Retention: **less than 50.0%** of the > 0.4 of PGD MNIST" in text(records)


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([robustness_record(make_facts(), [1])], "not run: no transferred model is among these records."),
        ([robustness_record(make_facts("transfer", "emnist", 1), [-1])], "none of 1 transferred models classifies"),
        ([], "No model was run."),
    ],
    ids=["single model", "all wrong", "nothing"],
)
def test_without_an_answer_the_report_says_so(records: list[Record], sentence: str) -> None:
    """A missing figure is a sentence, never a guess."""
    assert sentence in text(records)


def test_another_specification_is_said_in_words() -> None:
    """A passing run whose seconds cannot be compared says why, once."""
    message = "accuracy 80% → 80%; the specification changed: model.recipe.epochs: 7 → 8"
    seconds = "seconds not comparable: the specification changed"
    verdicts = [
        Verdict(suite="demo", case="a", stage="training", figure="validation accuracy", mark="=", message=message),
        Verdict(suite="demo", case="a", stage="training", figure="seconds", mark="x", message=seconds),
    ]
    report = text(STUDY, verdicts)
    assert "The specification of 1 stage is not that of the baselines (model.recipe.epochs: 7 → 8)" in report
    assert "their seconds were not compared" in report
    assert "not that of the baselines" not in text(STUDY, verdicts=[verdict("=")])


def test_a_ranking_that_depends_on_the_view_is_said() -> None:
    """TL#1 is right on few images and looks robust; the remark names the pair and both views."""
    few = both_records(make_facts("transfer", "emnist", 1), [4] * 100 + [-1] * 900)
    many = both_records(make_facts("transfer", "emnist", 2), [4] * 400 + [2] * 500 + [-1] * 100)
    assert (
        "TL#1 lies above TL#2 over correct images (0.4 against 0.2) and below it by robust accuracy "
        "(10.0% against 40.0%)"
    ) in text(few + many)
    assert "No two models change places" in text(STUDY)


def test_seeds_are_spread_out_in_the_answers() -> None:
    """Two seeds: medians over seeds, [least to greatest], and the drop point of each."""
    again = [
        *both_records(make_facts("pgd", "mnist", seed=1), [4] * 9, 100.0),
        *both_records(make_facts("pgd", "emnist", seed=1), [3] * 9 + [-1], 200.0),
        *both_records(
            make_facts("transfer", "emnist", 1, seed=1, source_case="cnn7-mnist-pgd-seed1"), [1] * 8 + [-1] * 2, 10.0
        ),
        *both_records(make_facts("transfer", "emnist", 2, seed=1, source_case="cnn7-mnist-pgd-seed1"), [1] * 10, 10.0),
    ]
    report = text(STUDY + again)
    for sentence in (
        "#### cnn7: MNIST → EMNIST, 2 seeds: medians over seeds, [least to greatest]",
        "median p\\* **0.15 [0.1 to 0.2]** at 80.0% clean accuracy.",
        "Retention: **37.5%** of the 0.4 of PGD MNIST",
        "2 seeds: 25.0% to 50.0%).",
        "In the medians over seeds, p\\* falls most after k = 1: 0.15 at k = 1, 0.1 at k = 2 (the drop point",
        "It is so in 1 of 2 seeds (seed 1: no fall).",
        "**30 times faster [× 20 to × 40]**",
    ):
        assert sentence in report


@pytest.mark.parametrize(
    ("seeds", "said", "brief"),
    [
        (
            [[4, 2, 1], [4, 2, 1]],
            "falls most after k = 1: 0.4 at k = 1, 0.2 at k = 2 (the drop point; the same in 100% of the bootstrap "
            "resamplings). It is so in each of the 2 seeds.",
            "k = 1 (0.4 → 0.2); so in 2 of 2 seeds",
        ),
        (
            [[1, 3, 3, 1], [4, 2, 1, 1], [2, 1, 0, 0]],
            "By itself, no seed has its largest fall there (seed 0: after k = 3, seed 1: after k = 1, seed 2: after k = 1)",
            "k = 2 (0.2 → 0.1); so in no seed by itself",
        ),
        (
            [[1, 2, 3], [1, 2, 3]],
            "never falls from one k to the next. It is so in each of the 2 seeds.",
            "none; so in 2 ",
        ),
        (
            [[1, 3, 2], [3, 1, 3], [2, 2, 1]],
            "never falls from one k to the next. By itself, every seed falls somewhere (seed 0: after k = 2, ",
            "none; so in no seed by itself",
        ),
    ],
)
def test_a_drop_point_of_several_seeds(seeds: list[list[int]], said: str, brief: str) -> None:
    """Of the medians over seeds, and in how many seeds it is so; where it is so in none, why."""
    records = [
        record
        for seed, medians in enumerate(seeds)
        for k, median in enumerate(medians, start=1)
        for record in both_records(make_facts("transfer", "emnist", k, seed=seed), [median] * 9)
    ]
    report = text(records)
    assert said in report
    assert brief in report


def test_text_from_records_is_literal() -> None:
    """Pipes, stars and tags of a note or a message break no table; equal notes appear once."""
    noted = both_records(make_facts(), [1], notes=["a | b <c> *d*"])
    report = text(noted, [verdict("x", figure="a|b")], notes=("a | b <c> *d*",))
    assert report.count("- a \\| b &lt;c&gt; \\*d\\*") == 1
    assert "a\\|b" in report


def test_markdown_helpers() -> None:
    """Names with underscores stay readable, fences outgrow their text, ranges and signs read as people write them."""
    assert escape("relu_4_1024 _x_\nnext") == "relu_4_1024 \\_x\\_ next"
    assert fenced("a ``` b") == "````\na ``` b\n````"
    assert whole_ranges([7, 1, 3, 4, 5]) == "1, 3–5, 7"
    assert (signed(-0.04, 1), signed(0.06, 1)) == ("0.0", "+0.1")
    assert (pstar(None, 0.8), pstar(float("inf"), 0.8), pstar(0.27, 0.8)) == ("–", "> 0.8", "0.27")
