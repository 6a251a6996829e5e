"""An ablation's changes against the same models without it."""

import pytest
from factories import both_records, make_facts
from msgspec.structs import replace

from robbench.record import Record
from robbench.report.ablation import effects, fields_that_move
from robbench.report.dots import draw_ablation
from robbench.report.remarks import ablation_section
from robbench.report.rows import Group, group_records

BASE = [3] * 60 + [2] * 30 + [-1] * 10


def transfer(places: list[int], variant: str | None = None, seed: int = 0, seconds: float = 10.0) -> list[Record]:
    """TL#1, as the study declares it or with one field as in the thesis."""
    facts = make_facts("transfer", "emnist", 1, seed=seed, variant=variant)
    case = "-".join(["cnn7-emnist-TL1", *([variant] if variant else []), *([f"seed{seed}"] if seed else [])])
    return both_records(facts, places, seconds, case=case)


def group(*records: list[Record]) -> Group:
    """The records' only group."""
    return group_records([record for two in records for record in two])[0]


def test_a_change_is_against_the_same_model() -> None:
    """Median p* falls from 0.3 to 0.1 and accuracy by ten points in half the time."""
    found = group(transfer(BASE), transfer([1] * 80 + [-1] * 20, "kept_statistics", seconds=5.0))
    (effect,) = effects(found)
    assert (effect.field, effect.varied.label) == ("kept_statistics", "TL#1")
    assert effect.median is not None
    assert effect.median.value == pytest.approx(-0.2)
    assert effect.median.high < 0
    assert effect.accuracy is not None
    assert effect.accuracy.value == pytest.approx(-0.1)
    assert effect.factor is not None
    assert effect.factor.value == pytest.approx(0.5)
    assert effect.moved == ("median p*", "clean accuracy")


def test_the_same_figures_move_nothing() -> None:
    """A variant that gives every image the same p* has a change of 0, from 0 to 0."""
    (effect,) = effects(group(transfer(BASE), transfer(BASE, "box")))
    assert effect.median is not None
    assert (effect.median.value, effect.median.low, effect.median.high) == (0.0, 0.0, 0.0)
    assert fields_that_move([effect]) == {"box": []}


def test_seeds_must_agree() -> None:
    """One seed up and one down is noise between trainings, whatever the images say."""
    up, down = [4] * 100, [0] * 100
    found = group(transfer(BASE), transfer(BASE, seed=1), transfer(up, "split"), transfer(down, "split", seed=1))
    (effect,) = effects(found)
    assert "median p*" not in effect.moved


def test_a_variant_of_one_seed_is_held_against_that_seed() -> None:
    """The base's other seeds have no part in it."""
    found = group(transfer(BASE), transfer([0] * 100, seed=1), transfer(BASE, "split"))
    (effect,) = effects(found)
    assert effect.base is not None
    assert [row.facts.seed for row in effect.base.rows] == [0]
    assert effect.median is not None
    assert effect.median.value == 0.0


def test_without_its_base_a_variant_has_no_change() -> None:
    """The section stays, with dashes."""
    found = group(transfer(BASE, "split"))
    (effect,) = effects(found)
    assert (effect.base, effect.median, effect.moved) == (None, None, ())
    assert "| TL#1 " in ablation_section(found)[-1]


def test_a_censored_base_beside_a_variant_that_was_only_trained() -> None:
    """The base is past the grid's end, the variant has no median to show."""
    found = group(transfer([5] * 10), transfer(BASE, "split")[:1])
    assert "> 0.4 → –" in ablation_section(found)[-1]


def test_no_finding_rests_on_few_images() -> None:
    """A network that is right on 29 images has a median, shown, that is no finding; its accuracy is one."""
    for right, expected in ((30, ("median p*", "clean accuracy")), (29, ("clean accuracy",))):
        (effect,) = effects(group(transfer([3] * 200), transfer([1] * right + [-1] * (200 - right), "statistics")))
        assert effect.median is not None
        assert tuple(name for name in effect.moved if name != "robust accuracy") == expected


def test_a_change_past_the_grids_end_is_in_the_picture() -> None:
    """Either way; a variant that was only trained is not."""
    seen, censored = transfer(BASE, "box"), [5] * 10
    without = draw_ablation(group(transfer(BASE), seen, transfer(censored, "split")[:1]))
    assert draw_ablation(group(transfer(BASE), seen, transfer(censored, "split"))) != without
    one, other = (
        draw_ablation(group(transfer(censored), transfer(BASE, "split"))),
        draw_ablation(group(transfer(BASE), transfer(censored, "split"))),
    )
    assert one != other


def test_a_variant_of_other_images_is_compared_all_the_same() -> None:
    """Transposed images have another SHA-256: orientation is compared image by image by index."""
    varied = [replace(record, data=replace(record.data, sha256="1" * 64)) for record in transfer(BASE, "orientation")]
    (effect,) = effects(group(transfer(BASE), varied))
    assert effect.median is not None
    assert (effect.median.low, effect.median.high) == (0.0, 0.0)


def test_the_section_says_which_fields_move() -> None:
    """One sentence for the fields beyond noise, one for the others; a table per field."""
    text = ablation_section(
        group(transfer(BASE), transfer([1] * 90 + [-1] * 10, "kept_statistics"), transfer(BASE, "box"))
    )
    assert "**`kept_statistics` moves figures beyond noise**: TL#1 (median p\\* -0.2)." in text[0]
    assert text[0].endswith("Nothing beyond noise: `box`.")
    assert [part for part in text if part.endswith("`:")] == ["`box`:", "`kept_statistics`:"]
    assert ablation_section(group(transfer(BASE))) == []
