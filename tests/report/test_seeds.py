"""Models that differ only in their seed are one."""

import math

from factories import make_group, transfer

from robbench.report.seeds import models_of, spread


def test_the_spread_of_three_seeds() -> None:
    """The median, the least and the greatest; what a seed lacks does not count."""
    found = spread([0.3, None, 0.1, 0.2, math.nan])
    assert (found.value, found.low, found.high, found.count) == (0.2, 0.1, 0.3, 3)
    assert spread([None]) is None


def test_a_censored_seed_is_the_greatest() -> None:
    """Two of three seeds past the grid make the median past the grid."""
    found = spread([math.inf, 0.4, math.inf])
    assert (found.value, found.low) == (math.inf, 0.4)


def test_two_seeds_that_part_at_the_grids_end() -> None:
    """Between a change to a censored median and one from it there is no middle: the lower stands."""
    found = spread([math.inf, -math.inf])
    assert found.value == -math.inf


def test_seeds_join_and_variants_stay_apart() -> None:
    """Two seeds of TL#1 are one model; its variant is another, and no row of the group."""
    group = make_group(transfer(1, [2] * 3, seed=1), transfer(1, [1] * 3), transfer(1, [3] * 3, variant="split"))
    (model,) = models_of(group.rows)
    assert [row.facts.seed for row in model.rows] == [0, 1]
    assert model.spread(lambda row: row.median) == spread([0.1, 0.2])
    assert [row.facts.variant for row in group.variants] == ["split"]
    assert len(models_of(group.all_rows)) == 2
