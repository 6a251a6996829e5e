"""Three views on models that misclassify different images, and pairs that change places between them."""

from factories import both_records, make_facts, make_group, transfer

from robbench.record import Record
from robbench.report.ranking import COMMON, CORRECT, ROBUST, common_images, ranking_epsilon, swaps

SOURCE = make_facts("pgd", "mnist")


def common_medians(*records: list[Record]) -> dict[str, tuple[float | None, int | None]]:
    """By case, median p* over the common images, and how many there are."""
    return {case: (row.median, row.correct) for case, row in common_images(make_group(*records).rows).items()}


def test_medians_over_common_images() -> None:
    """Only images 0, 1 and 2 are right for both EMNIST models; MNIST models have images of their own."""
    medians = common_medians(
        transfer(1, [1, 2, 3, -1, 4]), transfer(2, [4, 4, 1, 1, -1]), both_records(SOURCE, [2, -1, -1, -1, -1])
    )
    assert medians == {"cnn7-emnist-TL1": (0.2, 3), "cnn7-emnist-TL2": (0.4, 3), "cnn7-mnist-pgd": (0.2, 1)}


def test_common_images_are_a_seeds_own() -> None:
    """A second seed that is wrong elsewhere takes nothing from the first."""
    medians = common_medians(transfer(1, [1, 2, 3]), transfer(2, [1, 2, 3]), transfer(1, [-1, -1, 3], seed=1))
    assert medians["cnn7-emnist-TL1"] == (0.2, 3)
    assert medians["cnn7-emnist-TL1-seed1"] == (0.3, 1)


def test_a_model_that_is_right_on_few_images_changes_places() -> None:
    """TL#1 is right on 100 easy images of 1000 and looks the more robust; over all images it is far below TL#2."""
    easy = transfer(1, [4] * 100 + [-1] * 900)
    (swap,) = swaps(make_group(easy, transfer(2, [4] * 400 + [2] * 500 + [-1] * 100)))
    assert (swap.above, swap.below, swap.first, swap.second) == ("TL#1", "TL#2", CORRECT, ROBUST)
    assert swap.values == (0.4, 0.2)
    assert swap.others == (0.1, 0.4)


def test_a_difference_within_the_interval_is_no_swap() -> None:
    """With 440 of 900 images at 0.4 and 460 at 0.2, the median might as well be 0.4."""
    assert swaps(make_group(transfer(1, [4] * 100 + [-1] * 900), transfer(2, [4] * 440 + [2] * 460 + [-1] * 100))) == ()


def test_a_difference_of_one_grid_step_is_no_swap() -> None:
    """TL#1 is ahead by one step only, 0.3 against 0.2: not enough to call it another ranking."""
    found = swaps(make_group(transfer(1, [3] * 100 + [-1] * 900), transfer(2, [4] * 400 + [2] * 500 + [-1] * 100)))
    assert not [swap for swap in found if swap.first == CORRECT]


def test_common_images_can_turn_a_ranking_round() -> None:
    """Over its own images TL#2 is dragged down by hard ones that TL#1 gets wrong; over the common ones it is ahead."""
    (swap,) = swaps(make_group(transfer(1, [2] * 500 + [-1] * 500), transfer(2, [4] * 450 + [0] * 550)))
    assert (swap.above, swap.below, swap.first) == ("TL#1", "TL#2", CORRECT)
    assert swap.second in (COMMON, ROBUST)


def test_models_of_other_data_are_not_ranked_together() -> None:
    """The source's MNIST images are others."""
    assert swaps(make_group(transfer(1, [1] * 50), both_records(SOURCE, [4] * 50))) == ()
    assert ranking_epsilon(make_group(both_records(SOURCE, [4] * 50))) == 0.3
