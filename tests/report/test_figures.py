"""Figures: what is drawn for which records, and that nothing else decides a byte of it."""

import math

import pytest
from factories import both_records, make_facts, make_group, robustness_record, training_record, transfer

from robbench.record import Record
from robbench.report.boxes_and_curves import axis_end, draw_boxes, percentiles
from robbench.report.bundle import draw, draw_study
from robbench.report.drawing import colour, file_name
from robbench.report.rows import group_records
from robbench.report.seeds import models_of

MODELS = [
    *both_records(make_facts("pgd", "mnist"), [4, 5, 3, 4], 30.0),
    *both_records(make_facts("standard", "emnist"), [-1] * 16, 4.0),
    *transfer(1, [1, 2, 3, -1] * 10, 2.0),
    *transfer(2, [5, 5, 5, 5] * 10, 3.0),
]


def test_five_pictures_that_never_change() -> None:
    """The same records give the same PNG bytes, whatever their order; seeds share a picture."""
    seeds = MODELS + transfer(1, [1, 4, 4, -1] * 10, seed=1)
    (first,), (again,) = group_records(seeds), group_records(seeds[::-1])
    pictures = draw(first)
    assert [picture.name for picture in pictures] == [
        f"demo-cnn7-{k}.png" for k in ("answers", "pstar", "ecdf", "tradeoff", "seconds")
    ]
    assert all(picture.png.startswith(b"\x89PNG") for picture in pictures)
    assert pictures == draw(again)


@pytest.mark.parametrize(
    ("records", "kinds"),
    [
        ([training_record(make_facts())], ["seconds"]),
        ([robustness_record(make_facts(), [-1, -1])], ["pstar"]),
        ([robustness_record(make_facts(), [5, 5])], ["pstar", "ecdf"]),
        (transfer(1, [2], source=None, source_case=None) + transfer(2, [1]), ["pstar", "ecdf", "tradeoff", "seconds"]),
    ],
    ids=["only trained", "all wrong", "all censored, only tested", "nothing to compare with"],
)
def test_what_the_records_lack_is_not_drawn(records: list[Record], kinds: list[str]) -> None:
    """One model alone still gets the pictures that its records allow."""
    assert [picture.kind for picture in draw(make_group(*records))] == kinds


def test_a_box_holds_the_images_of_all_seeds() -> None:
    """Percentiles are p* of images, of both seeds together; those past the grid are inf, never its end."""
    (seeds,) = models_of(make_group(transfer(1, [0, 0, 1, 1, 2, -1]), transfer(1, [2, 3, 4, 5, 5], seed=1)).rows)
    assert percentiles(seeds) == (0.0, 0.1, 0.2, 0.4, math.inf)
    (one,) = models_of(make_group(transfer(1, [0, 1, 2, 3])).rows)
    assert percentiles(one)[2] == pytest.approx(0.15)


def test_the_axis_of_boxes_ends_where_the_grid_does_once_a_box_reaches_past_it() -> None:
    """Else just above the highest one."""
    low, past = (models_of(make_group(*both_records(make_facts(), [*[1] * 40, *[end] * 20])).rows) for end in (2, 5))
    assert axis_end(low) == pytest.approx(1.1 * 0.2)
    assert axis_end(past) == past[0].grid_end == 0.4


def test_an_ablation_is_a_picture_of_its_own() -> None:
    """A variant adds that picture and stands in no other."""
    (before,), (after,) = group_records(MODELS), group_records(MODELS + transfer(1, [1, 1, 3, -1], variant="split"))
    assert draw(after)[-1].name == "demo-cnn7-ablation.png"
    assert draw_boxes(after) == draw_boxes(before)


def test_a_study_of_two_architectures_has_pictures_of_both() -> None:
    """One alone has none."""
    groups = group_records(MODELS + transfer(1, [1, 2, 3, -1], architecture="cnn4"))
    assert [picture.name for picture in draw_study(groups)] == ["demo-study-tradeoff.png", "demo-study-seconds.png"]
    assert draw_study(groups[:1]) == []


def test_methods_have_colours_of_their_own() -> None:
    """Standard, adversarial, transferred and adversarially retrained models are told apart, their datasets are not."""
    facts = [
        make_facts("standard"),
        make_facts("pgd"),
        make_facts("transfer", k=1),
        make_facts("transfer-adversarial", k=1),
        make_facts("transfer", k=1, head="mlp2"),
        make_facts("transfer", k=1, kept="finetuned"),
        make_facts("transfer", k=1, kept="warm"),
        make_facts("transfer", k=1, source_method="standard"),
    ]
    colours = [colour(group_records([training_record(one)])[0].rows[0]) for one in facts]
    assert len(set(colours)) == 8
    other = group_records([training_record(make_facts("pgd", "emnist"))])[0].rows[0]
    assert colour(other) == colours[1]


def test_file_names_are_plain() -> None:
    """A timm network's name leads into no other folder."""
    assert file_name("demo", "timm:a/../b", "", "ecdf") == "demo-timm_a_.._b-ecdf.png"
