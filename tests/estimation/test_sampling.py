"""Which test images p* is estimated on."""

from hypothesis import given
from hypothesis import strategies as st

from robbench.estimation.sampling import choose_images


@given(st.integers(1, 300), st.integers(1, 300), st.integers(0, 5))
def test_chosen_images_are_unique_ascending_and_seeded(total, count, seed):
    """As many as asked for or there are, the same for the same seed, and others for another one."""
    chosen = choose_images(total, count, seed)
    assert chosen == sorted(set(chosen)) == choose_images(total, count, seed)
    assert len(chosen) == min(count, total)
    assert 0 <= chosen[0] <= chosen[-1] < total
    assert all(type(index) is int for index in chosen)
    assert choose_images(1000, 100, seed) != choose_images(1000, 100, seed + 1)


def test_every_seed_of_the_models_draws_anew():
    """Seed 0 draws by the estimate's seed alone; two other seeds share as many images as chance has it."""
    draws = [set(choose_images(10_000, 1_000, 7, model_seed)) for model_seed in range(3)]
    assert draws[0] == set(choose_images(10_000, 1_000, 7))
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert 50 < len(draws[one] & draws[other]) < 150
