"""What ``report.md`` says: sentences and figures of rich studies, checked with white space evened out."""

import re

import msgspec
import pytest
from factories import SOUND, again, both_records, busy, make_facts, robustness_record, training_record, transfer

from robbench.gate.verdicts import Verdict
from robbench.record import Audit, Record
from robbench.report.drawing import Picture
from robbench.report.page import Pictures, headline, report_text
from robbench.report.rows import group_records

MASKED = msgspec.structs.replace(SOUND, zero_gradient=100, warnings=["gradients are *zero*", "and so on"])


def text(records: list[Record], pictures: Pictures | None = None, **changes: object) -> str:
    """The report, each paragraph on one line."""
    page = report_text(group_records(records), pictures or {}, title="A study", **changes)
    return "\n\n".join(part if part.lstrip().startswith("|") else " ".join(part.split()) for part in page.split("\n\n"))


def verdict(mark: str, figure: str = "accuracy", case: str = "cnn7-mnist-pgd") -> Verdict:
    """A verdict on one figure."""
    return Verdict(suite="demo", case=case, stage="robustness", figure=figure, mark=mark, message=f"got {mark}")


def audited(record: Record, audit: Audit) -> Record:
    """The record with what an audit found."""
    return msgspec.structs.replace(record, result=msgspec.structs.replace(record.result, audit=audit))


STUDY = [
    *both_records(make_facts("pgd", "mnist"), [4] * 36, 100.0),
    *both_records(make_facts("pgd", "emnist"), [3] * 36 + [-1] * 4, 400.0),
    *transfer(1, [2] * 32 + [-1] * 8),
    *transfer(2, [1] * 40),
]
AGAIN = [
    *both_records(make_facts("pgd", "mnist", seed=1), [4] * 36, 100.0),
    *both_records(make_facts("pgd", "emnist", seed=1), [3] * 36 + [-1] * 4, 200.0),
    *transfer(1, [1] * 32 + [-1] * 8, seed=1),
    *transfer(2, [1] * 40, seed=1),
]


def test_a_report_from_top_to_bottom() -> None:
    """Verdict, what to choose, answers with their figures, tables, notes, data, machine and command, in this order."""
    report = text(
        STUDY,
        verdicts=[verdict("=")],
        notes=["a_b | *c* <d>"],
        command="pytest -m suite",
        missing=["demo/cnn4-a.training"],
    )
    sentences = (
        "# A study",
        "**Passed so far: 1 figure compared; 8 stages of the study not compared.**",
        "## demo: MNIST → EMNIST, cnn7",
        "- **For most robustness: PGD EMNIST**, median p\\* 0.300 (0.300 to 0.300), 90.0% clean accuracy, trained in 400 s",
        "- **For best balance: PGD EMNIST**, median p\\* 0.300 (0.300 to 0.300), 90.0% clean accuracy, expected robustness 90.0%",
        "- **For least cost: TL#1**",
        "- most robust within 10 s: TL#1 (0.200), 100 s: TL#1 (0.200), 1,000 s: PGD EMNIST (0.300)",
        "- cnn4: 1 model (cnn4-a)",
        "Tested on 36 images a model and seed, at the fewest: too few to settle a second digit.",
        "TL#1 is the most robust of 2 transferred models: median p\\* **0.200** at 80.0% clean accuracy.",
        "Retention: **50.0%** of the 0.400 of PGD MNIST (50.0% to 50.0%).",
        "Drop point: k = 1.",
        "Relative robustness: **66.7%** of the 0.300 of PGD EMNIST (",
        "Clean accuracy: 80.0% against 90.0% (**-10.0 points**, ",
        "Robust accuracy at ε = 0.3: 0.0% against 0.0% (**0.0 points**, 0.0 to 0.0).",
        "TL#1 trained in 10.0 s, PGD EMNIST from scratch in 400 s: **40 times faster**.",
        "With the source model's 100 s counted in: 3.64 times faster.",
        "| Model | clean accuracy | median p\\* | 99% interval | robust accuracy at ε = 0.3 | training seconds | epoch kept |",
        "Beside the published figures:",
        "Published medians are shown one grid step up: printed is the highest ε at which",
        "## Notes",
        "- a_b \\| \\*c\\* \\<d\\>",
        "## How it was measured",
        "- p\\* of 36 images of mnist, 40 images of emnist: grid 0 to 0.4, step 0.1; reference search with PGD (steps 40)",
        "- cpu-2core (cpu, 2 threads, Python 3.11, torch 2), robbench 0",
        "- 8 stages, recorded from 2025-01-01T00:00:00Z to 2025-01-01T00:00:00Z (UTC)",
        "``` pytest -m suite ```",
    )
    report = re.sub(r" {2,}", " ", report)
    places = [report.find(sentence) for sentence in sentences]
    assert [sentence for sentence, place in zip(sentences, places, strict=True) if place < 0] == []
    assert places == sorted(places)
    assert "None" not in report
    assert "{" not in report


def test_what_normalises_pixels_is_said_below_the_data() -> None:
    """With the models behind it."""
    report = text([*STUDY, robustness_record(make_facts("checkpoint", mean=(0.5,), std=(0.25,)), [1])])
    assert "- pixels normalised by mean (0.5), std (0.25): 1 model (cnn7-mnist-checkpoint)" in report


def test_seeds_are_joined_in_the_answers() -> None:
    """Two seeds: medians over seeds; ranges are for the HTML and the CSV."""
    report = text(STUDY + AGAIN)
    for sentence in (
        "## demo: MNIST → EMNIST, cnn7, 2 seeds",
        "median p\\* **0.150** at 80.0% clean accuracy.",
        "Retention: **37.5%** of the 0.400 of PGD MNIST (25.0% to 50.0%)",
        "Drop point: k = 1, uncertain.",
        "**30 times faster**",
    ):
        assert sentence in report


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        (
            [robustness_record(make_facts("transfer", "emnist", 1), [-1])],
            "n/a: no transferred model was tested and has 30 correct images and 0% clean accuracy.",
        ),
        ([], "No model was run."),
        (
            [*both_records(make_facts(), [5] * 40), *transfer(1, [2] * 40)],
            "Retention: **less than 50.0%** of the > 0.4 of PGD MNIST",
        ),
        (
            [*both_records(make_facts(), [5] * 40), *transfer(1, [5] * 40)],
            "Retention: n/a (> 0.4 ÷ the > 0.4 of PGD MNIST has no value).",
        ),
    ],
)
def test_without_an_answer_the_report_says_so(records: list[Record], sentence: str) -> None:
    """A missing figure is a sentence, never a guess."""
    assert sentence in text(records)


@pytest.mark.parametrize(
    ("records", "missing", "sentence"),
    [
        ([robustness_record(make_facts(), [1])], "cnn7-emnist-TL2", "not run: no transferred model is among these"),
        (STUDY[4:6], "cnn7-emnist-standard", "n/a (not run: the conventionally trained target model)."),
        (STUDY[4:6], "cnn7-emnist-pgd", "not run: PGD EMNIST, the target model adversarially trained from scratch."),
        (STUDY[4:6], "cnn7-emnist-pgd-seed2", "n/a: TL#1 and the target model adversarially trained from scratch were"),
        (STUDY[4:6], "cnn7-mnist-pgd", "Retention: n/a (not run: the source model)."),
    ],
)
def test_what_the_study_asks_for_and_was_not_run_is_said(records: list[Record], missing: str, sentence: str) -> None:
    """And left out where the study does not ask for it."""
    assert sentence in text(records, missing=[f"demo/{missing}.training"])
    assert sentence not in text(records)


def test_a_transfer_from_a_checkpoint_alone_is_compared_with_what_there_is() -> None:
    """No retention, no question without an answer: neither its source nor a model from scratch is in the study."""
    facts = {"source": None, "source_case": None, "source_method": "checkpoint"}
    alone = [*transfer(1, [2] * 40, **facts), *transfer(2, [1] * 40, **facts)]
    report = text(alone)
    assert "## demo: a checkpoint → EMNIST" in report
    assert "TL#1 is the most robust of 2 transferred models" in report
    for word in ("Retention:", "not run", "n/a", "How close", "How much faster", "speed-up", "retention"):
        assert word not in report
    beside = text([*alone, *both_records(make_facts("standard", "emnist"), [1] * 40)])
    assert "Against conventional training on the target: **2 times** the 0.100 of Standard EMNIST" in beside


def test_reading_a_checkpoint_is_nothing_to_compare() -> None:
    """A study of one passes with its p*."""
    facts = make_facts("checkpoint", "emnist")
    records = [training_record(facts, 0.0, epochs=0), robustness_record(facts, [1])]
    assert "**Passed: 1 figure compared.**" in text(records, verdicts=[verdict("=", case=records[0].case)])


def test_a_study_of_one_checkpoint_says_how_robust_it_is() -> None:
    """Nothing of transfers, of seconds, or of training from scratch."""
    report = text([robustness_record(make_facts("checkpoint", "emnist"), [3] * 60 + [2] * 30 + [-1] * 10)])
    assert (
        "Checkpoint EMNIST: median p\\* **0.300** (0.300 to 0.300) at 90.0% clean accuracy; "
        "robust accuracy 90.0% at ε = 0.1, 60.0% at ε = 0.2, 0.0% at ε = 0.3."
    ) in report
    for word in ("transfer", "retention", "TL#", "speed-up", "n/a", "scratch"):
        assert word not in report


@pytest.mark.parametrize(("case", "factors"), [("cnn7-emnist-TL1", 2), ("cnn7-emnist-pgd", 2), ("cnn7-mnist-pgd", 1)])
def test_a_factor_of_seconds_on_a_busy_machine_is_no_result(case: str, factors: int) -> None:
    """Whichever model it was that waited; where it was the source, only the factor with the source's seconds."""
    report = text(busy(STUDY, f"{case}.training"))
    assert report.count("which is no measure, since the machine was busy with other work.") == factors
    assert "**Measured on a busy machine**: training of " in report
    assert "busy" not in text(STUDY)


def test_only_what_changed_has_a_line_of_the_verdicts() -> None:
    """Failures first; verdicts of one wording share a line; equal and new figures have none."""
    report = text(STUDY, verdicts=[verdict("="), verdict("~"), *(verdict("-", case=case) for case in "abc")])
    lines = [line for line in report.splitlines() if "got " in line]
    assert [line.split("|")[1].strip() for line in lines] == ["`-`", "`~`"]
    assert "demo/a, demo/b and 1 more" in lines[0]
    assert "got " not in text(STUDY, verdicts=[verdict("="), verdict("new")])


@pytest.mark.parametrize(
    ("marks", "lacking", "line"),
    [
        ("", 0, "No comparison was made."),
        ("= + ~", 0, "Passed: 3 figures compared."),
        ("= x", 0, "Passed: 1 figure compared, 1 not comparable."),
        ("- - =", 0, "Failed: 2 regressions, of 3 figures."),
        ("missing =", 0, "Failed: 1 without a baseline, of 2 figures."),
        ("error -", 0, "Failed: 1 stage without a result, 1 regression, of 1 figure."),
        ("new new", 0, "Nothing compared: 2 new baselines."),
        ("quick quick", 0, "Quick scale: compared with nothing."),
        ("= = x", 3, "Passed so far: 2 figures compared, 1 not comparable; 3 stages of the study not compared."),
        ("- =", 1, "Failed: 1 regression, of 2 figures; 1 stage of the study not compared."),
        ("new", 2, "Nothing compared: 1 new baseline; 2 stages of the study not compared."),
    ],
)
def test_headline(marks: str, lacking: int, line: str) -> None:
    """One line says how the comparison went; a study of which stages were not compared has not passed."""
    assert headline([verdict(mark, figure="seconds") for mark in marks.split()], lacking) == line
    assert headline([verdict("x", "median p*")]) == "Failed: 1 not comparable, of 1 figure."


def test_a_ranking_that_depends_on_the_view_is_said() -> None:
    """TL#1 is right on few images and looks robust; the remark names the pair and both views."""
    few = transfer(1, [4] * 100 + [-1] * 900)
    many = transfer(2, [4] * 400 + [2] * 500 + [-1] * 100)
    assert (
        "- TL#1 lies above TL#2 over correct images (0.400 against 0.200) and below it by robust accuracy "
        "(10.0% against 40.0%)"
    ) in text(few + many)


def test_a_suspect_model_is_named_at_the_top_and_marked_in_the_tables() -> None:
    """Before anything else is said, with its reasons; the sound model beside it is not marked."""
    sound, masked = audited(STUDY[1], SOUND), audited(STUDY[5], MASKED)
    report = text([sound, masked, STUDY[7]])
    top = report.split("## ")[0]
    assert "**⚠ p\\* of 1 model cannot be trusted**, for what the audit found. Marked ⚠ below." in top
    assert "- demo/cnn7-emnist-TL1: gradients are \\*zero\\*; and so on" in top
    assert sum(line.startswith("| TL#1 ⚠ ") for line in report.splitlines()) == 3  # of three tables
    assert "PGD MNIST ⚠" not in report
    assert (
        "Audit of p\\*, 2 models: **1 not to be trusted**: TL#1 (⚠). A linear scan disagrees on 4 of 20 images. "
        "Not audited: 1."
    ) in report
    assert "1 model: nothing found." in text([sound])
    attacked = msgspec.structs.replace(SOUND, apgd_images=1_000, apgd_fooled=40)
    assert "APGD-T one grid step below p\\* fools 40 of 1,000." in text([audited(STUDY[1], attacked)])
    assert "udit" not in text(STUDY)


def test_the_report_shows_both_and_warns() -> None:
    """Both medians in a table, with a remark where they are apart; nothing of it without a second search."""
    source = STUDY[1]
    report = text([*STUDY, again(source, "fast", [3] * 36)])
    assert "**Two searches differ by more than 10%** in median p\\*: PGD MNIST (0.400; fast 0.300)." in report
    assert "fast search with PGD (steps 40)" in report
    alike = text([*STUDY, again(source, "fast", [4] * 36)])
    assert "Two searches" not in alike
    assert "| PGD MNIST | reference | 0.400 | fast | 0.400 | 1.00 |" in " ".join(alike.split())
    assert "second search" not in text(STUDY)


def test_a_second_search_that_its_audit_doubts_is_named() -> None:
    """Not among the models whose own p* is doubted; with what was found of the first."""
    second = audited(again(STUDY[1], "reference", [4] * 36), MASKED)
    report = text([*STUDY, second])
    assert "**p\\* by reference is not to be trusted** for PGD MNIST: gradients are \\*zero\\*; and so on." in report
    assert "cannot be trusted" not in report


def test_an_ablation_says_which_fields_move() -> None:
    """One sentence for the fields beyond noise, one for the others; a table for each that moves anything."""
    base = [3] * 60 + [2] * 30 + [-1] * 40
    moved = transfer(1, [1] * 90 + [-1] * 40, variant="kept_statistics")
    report = text([*transfer(1, base), *moved, *transfer(1, base, variant="box")])
    assert "**`kept_statistics` moves figures beyond noise**: TL#1 (median p\\* -0.200)." in report
    assert "Nothing beyond noise: `box`." in report
    assert "\n\n`kept_statistics`:\n\n| Model" in report
    assert "`box`:" not in report


def test_pictures_stand_by_their_section() -> None:
    """Without a caption: a picture says itself what it shows."""
    pictures = {("demo", "cnn7"): [Picture("tradeoff", "demo.png", b"")]}
    assert "\n\n![cnn7: median p\\* over clean accuracy](figures/demo.png)\n\n" in text(STUDY, pictures)


def test_the_answers_are_those_of_the_most_robust_transfer() -> None:
    """Adversarial retraining, where it is better, not the first kind of transfer; and the better network comes first."""
    better = both_records(make_facts("transfer-adversarial", "emnist", 1), [3] * 40)
    assert "TL#1 adversarial is the most robust of 3 transferred models: median p\\* **0.300**" in text(
        [*STUDY, *better]
    )
    second = transfer(1, [1] * 40, architecture="cnn4")
    report = text([*STUDY, *second])
    assert "## demo: MNIST → EMNIST\n" in report
    assert report.index("### cnn7") < report.index("### cnn4")


def test_a_title_that_is_the_studys_name_is_said_once() -> None:
    """Then the heading of the only study begins with its data."""
    report = report_text(group_records(STUDY), {}, title="demo")
    assert [line for line in report.splitlines() if line.startswith("#")][:2] == ["# demo", "## MNIST → EMNIST, cnn7"]


def test_what_was_not_considered_is_said() -> None:
    """A model from two correct images, however robust."""
    lucky = transfer(3, [4] * 2 + [-1] * 38)
    report = text([*STUDY, *lucky])
    assert "- not considered, below 50% clean accuracy or 30 correct images: TL#3" in report
    assert "TL#1 is the most robust of 3 transferred models" in report
