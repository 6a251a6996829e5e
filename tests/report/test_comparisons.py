"""Radii of robust accuracies."""

from factories import GRID, both_records, make_facts, make_group

from robbench.report.comparisons import comparison_epsilon, fixed_epsilons

SCRATCH = make_facts("pgd", "emnist")


def test_fixed_radii_follow_the_grid() -> None:
    """0.1, 0.2, 0.3 on MNIST's grid; 2, 4, 8 ÷ 255 on CIFAR's; shares of a smaller grid."""
    assert fixed_epsilons(GRID) == (0.1, 0.2, 0.3)
    assert fixed_epsilons([round(i * 0.001, 3) for i in range(110)]) == (2 / 255, 4 / 255, 8 / 255)
    assert fixed_epsilons([0.0, 0.01, 0.02]) == (0.01, 0.02)
    assert fixed_epsilons([0.0, 0.1, 0.2]) == (0.1, 0.2)
    assert fixed_epsilons([0.0]) == ()


def test_robust_accuracy_is_read_at_the_training_radius() -> None:
    """The radius a model was trained with where its record says so, else the largest fixed one."""
    assert comparison_epsilon(GRID, make_group(both_records(SCRATCH, [1])).rows[0]) == 0.3
    weaker = both_records(SCRATCH, [1], spec={"model": {"recipe": {"attack": {"epsilon": 0.12}}}})
    assert comparison_epsilon(GRID, make_group(weaker).rows[0]) == 0.12
    assert comparison_epsilon(GRID, None) == 0.3


def test_robust_accuracy_is_over_all_images() -> None:
    """Two of five images outlast 0.2, one is wrong from the start; 0.15 is read at 0.2; past the grid there is none."""
    (model,) = make_group(both_records(SCRATCH, [1, 2, 3, 5, -1])).rows
    assert model.robust(0.2) == 0.4
    assert (model.robust(0.15), model.robust(0.5)) == (0.4, None)
