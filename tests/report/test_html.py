"""What ``report.html`` holds; what it does is in ``test_browser.py``."""

import re
from html.parser import HTMLParser

import pytest
from factories import (
    SOUND,
    both_records,
    busy,
    make_facts,
    many_classes,
    robustness_record,
    transfer,
    with_classes,
    with_examples,
)
from msgspec.structs import replace

from robbench.gate.verdicts import Verdict
from robbench.record import Record
from robbench.report import html
from robbench.report.html import report_html
from robbench.report.rows import group_records

STUDY = with_examples(
    [
        *both_records(make_facts("pgd", "mnist"), [4] * 40, 100.0),
        *both_records(make_facts("standard", "emnist"), [1] * 40, 5.0),
        *both_records(make_facts("pgd", "emnist"), [3] * 36 + [-1] * 4, 400.0),
        *transfer(1, [2] * 32 + [-1] * 8),
        *transfer(2, [1] * 40),
    ]
)


class Text(HTMLParser):
    """The text of a page, and whether every element that was opened is closed."""

    VOID = frozenset({"meta", "link", "img", "input", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.parts: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Remember it."""
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the last one."""
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Collect it."""
        if not self.open or self.open[-1] not in ("style", "script"):
            self.parts.append(data)


def text(records: list[Record], **changes: object) -> str:
    """The text of a well-formed page."""
    page = Text(report_html(group_records(records), title="A study", **changes))
    assert page.open == []
    return " ".join(" ".join(page.parts).split())


def test_the_first_screen_comes_first() -> None:
    """The recommendation and the three answers with their figures, what to choose, then the rest."""
    page = text(STUDY, command="pytest -m suite", notes=["a note"])
    sentences = (
        "A study No comparison was made.",
        "recommended PGD EMNIST median p* 0.300 (0.300 to 0.300) at 90.0% clean accuracy: the best balance",
        "1. robustness kept by TL#1 50.0% 50.0% to 50.0% of the source's median p* ",
        "2. TL#1 against training from scratch 66.7%",
        "3. time of TL#1 × 40 one seed: no interval faster than adversarial training from scratch; × 3.64 with the",
        "Which to choose on EMNIST For most robustness: PGD EMNIST median p* 0.300",
        "The best under your own limits",
        "Every kind of transfer at its best k",
        "What fools them",
        "source: PGD MNIST",
        "worst: a → <b> at p* 0.1",
        "best transfer: TL#1",
        "conventional: Standard EMNIST",
        "Beside the published figures",
        "How they were trained",
        "a note",
        "What the words mean",
        "Data, search, environment",
        "pytest -m suite",
    )
    places = [page.find(sentence) for sentence in sentences]
    assert [sentence for sentence, place in zip(sentences, places, strict=True) if place < 0] == []
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("case", "said"),
    [
        ("cnn7-emnist-TL1", "scratch, which is no measure, since the machine was busy with other work; × 3.64 with"),
        ("cnn7-emnist-pgd", "scratch, which is no measure, since the machine was busy with other work; × 3.64 with"),
        ("cnn7-mnist-pgd", "scratch; × 3.64 with the source's training, which is no measure, since the machine"),
    ],
)
def test_the_card_of_a_time_that_is_no_measure_says_so(case: str, said: str) -> None:
    """Of the factor whose seconds were taken on a busy machine."""
    page = text(busy(STUDY, f"{case}.training"))
    assert f"faster than adversarial training from {said}" in page
    assert page.count("no measure") == 1


def test_one_file_that_asks_no_network() -> None:
    """No address but of data within it, below 3 MB, and the same bytes for the same records."""
    page = report_html(group_records(STUDY), title="A study")
    assert set(re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([a-z]+:)""", page)) == {"data:"}
    assert "://" not in page
    assert len(page.encode()) < 3_000_000
    assert page == report_html(group_records(STUDY[::-1]), title="A study")


def test_classes_of_few_images_are_pale() -> None:
    """A cell of the one class with one correct image in each of the two models; dashes in a legend are a class, too."""
    page = report_html(
        group_records(with_classes([*transfer(1, [1] * 40), *transfer(2, [1] * 40)], many_classes(12))), title="t"
    )
    assert page.count('<td class="pale" style="--depth: 0%">0.000<small>5%</small></td>') == 2
    assert page.count('style="--depth: 100%">0.220<small>75%</small></td>') == 2
    assert 'class="dashed"' in report_html(group_records(STUDY), title="t")


def test_large_examples_of_many_architectures_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the first architecture stay."""
    second = with_examples(transfer(1, [1] * 40, architecture="cnn4"))
    count = report_html(group_records([*STUDY, *second]), title="A study").count('class="example"')
    monkeypatch.setattr(html, "EXAMPLES", 6 * len(STUDY[1].result.examples[0].png))  # of source, TL#1 and conventional
    fewer = report_html(group_records([*STUDY, *second]), title="A study").count('class="example"')
    assert (count, fewer) == (8, 6)


def test_names_are_text() -> None:
    """Whatever a user calls a study, a note or a class."""
    page = report_html(group_records(STUDY), title="<script>alert(1)</script>", notes=["a </script> b"])
    assert page.count("<script>") == page.count("</script>") == 1
    assert "&lt;script&gt;alert(1)" in page


@pytest.mark.parametrize(
    ("records", "sentence"),
    [
        ([], "No model was run."),
        ([robustness_record(make_facts("checkpoint", "emnist"), [3] * 40)], "median p* 0.300 0.300 to 0.300 at 100.0%"),
        (transfer(1, [2] * 3) + transfer(2, [1] * 3), "Nothing is recommended on EMNIST: no model has 30 correct"),
        ([robustness_record(make_facts("checkpoint", "emnist"), [-1] * 40)], "Fewer than 30 correct images"),
        ([robustness_record(make_facts("checkpoint", "emnist"), [5] * 40)], "median p* > 0.4 > 0.4 to > 0.4"),
    ],
    ids=["nothing", "one model", "too few images", "nothing right", "never fooled"],
)
def test_where_there_is_little_the_page_says_so(records: list[Record], sentence: str) -> None:
    """A page all the same."""
    assert sentence in text(records)


def test_what_cannot_be_trusted_stands_at_the_top() -> None:
    """And with what the audit found where the model's figures are."""
    masked = replace(SOUND, zero_gradient=100, warnings=["gradients are zero"])
    page = text(
        [replace(each, result=replace(each.result, audit=masked)) if each.robustness else each for each in STUDY]
    )
    assert page.index("⚠ p* of 5 models cannot be trusted, for what the audit found: ") < page.index("recommended")
    assert "⚠ p* of TL#1 cannot be trusted: gradients are zero" in page
    assert "trusted" not in text(STUDY)


def test_what_failed_stands_at_the_top() -> None:
    """With what happened."""
    bad = Verdict(suite="demo", case="a", stage="robustness", figure="median p*", mark="-", message="fell by half")
    page = text(STUDY, verdicts=[bad])
    assert page.index("Failed: 1 regression") < page.index("fell by half") < page.index("Which to choose")
