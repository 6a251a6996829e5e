"""Figures: what is drawn for which records, and that nothing else decides a byte of it."""

import math

import pytest
from factories import both_records, make_facts, robustness_record, training_record

from robbench.record import Record
from robbench.report.boxes import box_places
from robbench.report.drawing import colour, file_name
from robbench.report.figures import draw
from robbench.report.rows import group_records

MODELS = [
    *both_records(make_facts("pgd", "mnist"), [4, 5, 3, 4], 30.0),
    *both_records(make_facts("standard", "emnist"), [-1] * 4, 4.0),
    *both_records(make_facts("transfer", "emnist", 1), [1, 2, 3, -1], 2.0),
    *both_records(make_facts("transfer", "emnist", 2), [5, 5, 5, 5], 3.0),
]


def names(records: list[Record]) -> list[str]:
    """The pictures' file names."""
    return [picture.name for group in group_records(records) for picture in draw(group)]


def test_four_pictures_that_never_change() -> None:
    """The same records give the same PNG bytes, whatever their order."""
    (first,), (again,) = group_records(MODELS), group_records(MODELS[::-1])
    pictures = draw(first)
    assert [picture.name for picture in pictures] == [
        f"demo-cnn7-{k}.png" for k in ("pstar", "ecdf", "tradeoff", "seconds")
    ]
    assert all(picture.png.startswith(b"\x89PNG") and picture.alt and picture.caption for picture in pictures)
    assert pictures == draw(again)


@pytest.mark.parametrize(
    ("records", "kinds"),
    [
        ([training_record(make_facts())], ["seconds"]),
        ([robustness_record(make_facts(), [-1, -1])], ["pstar"]),
        ([robustness_record(make_facts(), [5, 5])], ["pstar", "ecdf", "tradeoff"]),
    ],
    ids=["only trained", "all wrong", "all censored, only tested"],
)
def test_what_the_records_lack_is_not_drawn(records: list[Record], kinds: list[str]) -> None:
    """One model alone still gets the pictures that its records allow."""
    assert names(records) == [f"demo-cnn7-{kind}.png" for kind in kinds]


def test_every_seed_has_its_own_pictures() -> None:
    """Two seeds do not overwrite one another's files."""
    records = [training_record(make_facts(seed=seed)) for seed in (0, 1)]
    assert names(records) == ["demo-cnn7-seed0-seconds.png", "demo-cnn7-seed1-seconds.png"]


def test_box_of_ten_images() -> None:
    """Percentiles are p* of images; those past the grid are inf, never its end."""
    robustness = robustness_record(make_facts(), [0, 0, 1, 1, 2, 2, 3, 4, 5, 5]).robustness
    assert robustness is not None
    assert box_places(robustness) == (0.0, 0.1, 0.2, 0.4, math.inf)


def test_methods_have_colours_of_their_own() -> None:
    """Standard, adversarial, transferred and adversarially retrained models are told apart, their datasets are not."""
    facts = [
        make_facts("standard"),
        make_facts("pgd"),
        make_facts("transfer", k=1),
        make_facts("transfer-adversarial", k=1),
    ]
    colours = [colour(group_records([training_record(one)])[0].rows[0]) for one in facts]
    assert len(set(colours)) == 4
    other = group_records([training_record(make_facts("pgd", "emnist"))])[0].rows[0]
    assert colour(other) == colours[1]


def test_file_names_are_plain() -> None:
    """A timm network's name leads into no other folder."""
    assert file_name("demo", "timm:a/../b", "", "ecdf") == "demo-timm_a_.._b-ecdf.png"
