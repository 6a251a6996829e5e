"""An ablation's changes against the same models without it."""

import pytest
from factories import make_group, transfer

from robbench.report.ablation import ablation_table, effects

BASE = [3] * 60 + [2] * 30 + [-1] * 10


def test_a_change_is_against_the_same_model() -> None:
    """Median p* falls from 0.3 to 0.1 and accuracy by ten points."""
    found = make_group(transfer(1, BASE), transfer(1, [1] * 80 + [-1] * 20, variant="kept_statistics"))
    (effect,) = effects(found)
    assert (effect.field, effect.varied.label) == ("kept_statistics", "TL#1")
    assert effect.median.value == pytest.approx(-0.2)
    assert effect.median.high < 0
    assert effect.accuracy.value == pytest.approx(-0.1)
    assert effect.moved == ("median p*", "clean accuracy")


def test_the_same_figures_move_nothing() -> None:
    """A variant that gives every image the same p* has a change of 0, from 0 to 0."""
    (effect,) = effects(make_group(transfer(1, BASE), transfer(1, BASE, variant="box")))
    assert (effect.median.value, effect.median.low, effect.median.high) == (0.0, 0.0, 0.0)
    assert effect.moved == ()


def test_seeds_must_agree() -> None:
    """One seed up and one down is noise between trainings, whatever the images say."""
    up, down = [4] * 100, [0] * 100
    found = make_group(
        transfer(1, BASE),
        transfer(1, BASE, seed=1),
        transfer(1, up, variant="split"),
        transfer(1, down, variant="split", seed=1),
    )
    (effect,) = effects(found)
    assert "median p*" not in effect.moved


def test_a_variant_of_one_seed_is_held_against_that_seed() -> None:
    """The base's other seeds have no part in it."""
    found = make_group(transfer(1, BASE), transfer(1, [0] * 100, seed=1), transfer(1, BASE, variant="split"))
    (effect,) = effects(found)
    assert [row.facts.seed for row in effect.base.rows] == [0]
    assert effect.median.value == 0.0


def test_without_its_base_a_variant_has_no_change() -> None:
    """Its line has dashes."""
    found = make_group(transfer(1, BASE, variant="split"))
    (effect,) = effects(found)
    assert (effect.base, effect.median, effect.moved) == (None, None, ())
    line = ablation_table([effect]).iloc[0].tolist()
    assert line[:5] == ["TL#1", "– → 90.0%", "–", "– → 0.300", "–"]


def test_a_censored_base_beside_a_variant_that_was_only_trained() -> None:
    """The base is past the grid's end, the variant has no median to show."""
    found = make_group(transfer(1, [5] * 10), transfer(1, BASE, variant="split")[:1])
    assert "> 0.4 → –" in ablation_table(effects(found)).iloc[0].tolist()


def test_no_finding_rests_on_few_images() -> None:
    """A network that is right on 29 images has a median, shown, that is no finding; its accuracy is one."""
    for right, expected in ((30, ("median p*", "clean accuracy")), (29, ("clean accuracy",))):
        varied = transfer(1, [1] * right + [-1] * (200 - right), variant="statistics")
        (effect,) = effects(make_group(transfer(1, [3] * 200), varied))
        assert tuple(name for name in effect.moved if name != "robust accuracy") == expected


def test_a_network_that_was_not_frozen_is_held_against_the_frozen_one() -> None:
    """The variant of ``kept`` differs from its base in what a report tells kinds of transfer apart by."""
    warm = transfer(1, [1] * 80 + [-1] * 20, kept="warm", variant="kept")
    (effect,) = effects(make_group(transfer(1, BASE), warm))
    assert (effect.base.label, effect.varied.label) == ("TL#1", "TL#1, whole network")
    assert effect.median.value == pytest.approx(-0.2)
