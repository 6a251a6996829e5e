"""p* by other libraries' attacks and one's own functions, alone and together: how small, how batched, what counts."""

from __future__ import annotations

from copy import deepcopy
from importlib.util import find_spec

import pytest
import torch
from networks import Counting, Cramped, linear, linear_case, problem
from searches import GRID, fast, interrupted, oracle, plain, problem_of

from robbench.errors import RobbenchError
from robbench.estimation.estimators import estimate_pstar, estimator
from robbench.estimation.other_attacks import attack_function, check_attacks
from robbench.record import MISCLASSIFIED
from robbench.spec import Ensemble, EpsilonGrid, Estimate, attack

L2 = EpsilonGrid(stop=2.0, step=0.02).values
STEP, NEAREST = attack("own_attacks:step"), attack("own_attacks:nearest", overshoot=1.001)


def pstar_by(search, network, images, labels, grid=GRID, **options):
    """The outcome of a search."""
    return estimate_pstar(network, images, labels, grid, oracle(2), search=search, **options)


def rounded_up(distances, grid=GRID):
    """Grid indices of the smallest radii that hold these distances."""
    return [sum(radius < distance for radius in grid) for distance in distances.tolist()]


@pytest.mark.parametrize("batch_size", [1, 7, 12])
@pytest.mark.parametrize("search", [STEP, NEAREST], ids=["within a radius", "minimal"])
def test_a_linear_models_pstar_is_its_margin_rounded_up_and_every_pass_counts(search, batch_size):
    """By bisection or by one call for each image, whatever the batch; images that are wrong are not attacked."""
    model, images, labels, exact = linear_case(3)
    labels[::4] = 1 - labels[::4]
    model = Counting(model)
    found = pstar_by(search, model, images, labels, batch_size=batch_size, keep_adversarials=True)
    expected = torch.tensor(rounded_up(exact))
    expected[::4] = MISCLASSIFIED
    assert found.pstar.tolist() == expected.tolist()
    assert (found.forward, found.backward) == (model.forwards, model.backwards)
    assert found.forward == len(images) + 2 * found.backward  # one to attack, one to confirm
    right = expected >= 0
    assert (model(found.adversarials[right]).argmax(dim=1) != labels[right]).all()


@pytest.mark.parametrize(("overshoot", "grid"), [(1.5, GRID), (1.5, (0.1, 0.2)), (0.999, GRID), (1.5, (0.0, 1e-4))])
def test_pstar_is_the_smallest_radius_that_holds_what_was_found(overshoot, grid):
    """At its true distance; what fools nobody or lies outside the grid is no success."""
    model, images, labels, exact = linear_case(4)
    found = pstar_by(attack("own_attacks:nearest", overshoot=overshoot), model, images, labels, grid)
    expected = rounded_up(overshoot * exact, grid) if overshoot > 1 else [len(grid)] * len(exact)
    assert found.pstar.tolist() == expected


@pytest.mark.parametrize(("pixel", "expected"), [("-3", 2), ("nan", 3)])
def test_what_is_found_outside_the_box_is_moved_into_it(pixel, expected):
    """An image of 0.5 becomes black at 0.5; what is no number fools nobody."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-9.0)
    images, labels = torch.full((1, 1, 6, 6), 0.5, dtype=torch.float64), torch.tensor([0])
    found = pstar_by(attack("own_attacks:elsewhere", pixel=pixel), model, images, labels, (0.0, 0.4, 0.5))
    assert found.pstar.tolist() == [expected]


def test_draws_follow_the_seed_and_leave_the_process_alone():
    """The same seed gives the same p*, another one another; torch's generator stands where it stood."""
    model, images, labels, _ = linear_case(5, count=40)
    searches = [attack("own_attacks:at_random", seed=seed) for seed in (0, 0, 1)]
    before = torch.random.get_rng_state()
    once, again, other = (pstar_by(search, model, images, labels).pstar.tolist() for search in searches)
    assert once == again != other
    assert torch.equal(torch.random.get_rng_state(), before)


def test_half_the_batch_where_memory_runs_out():
    """The same p*, and a note."""
    model, images, labels, _ = linear_case(3)
    notes = []
    found = pstar_by(STEP, Cramped(model, 5), images, labels, batch_size=8, notes=notes)
    assert found.pstar.tolist() == pstar_by(STEP, model, images, labels).pstar.tolist()
    assert notes == ["out of memory: p* went on with batches of 4 images"]


# --- several together --------------------------------------------------------------------------------------------------


def test_an_ensemble_takes_each_images_smallest_pstar_and_says_who_found_it():
    """Of equal ones the first search's; its counterexamples are theirs, its passes those of all."""
    model, images, labels, exact = linear_case(3)
    near, far = attack("own_attacks:nearest", overshoot=1.3), attack("own_attacks:step", share=0.7)
    searches = (near, far, NEAREST)
    alone = [pstar_by(search, model, images, labels, keep_adversarials=True) for search in searches]
    for chosen in ((near, far), (far, near, NEAREST)):
        found = pstar_by(Ensemble(searches=chosen), model, images, labels, keep_adversarials=True)
        parts = [alone[searches.index(search)] for search in chosen]
        pstars = torch.stack([part.pstar for part in parts])
        assert torch.equal(found.pstar, pstars.amin(dim=0))
        first = [pstars[:, image].tolist().index(found.pstar[image].item()) for image in range(len(images))]
        assert [*found.found_by.values()] == [first.count(at) for at in range(len(chosen))]
        assert [*found.found_by] == [search.label for search in chosen]
        for image, at in enumerate(first):
            assert torch.equal(found.adversarials[image], parts[at].adversarials[image])
        assert found.forward == sum(part.forward for part in parts)
        assert found.backward == sum(part.backward for part in parts)
    assert found.pstar.tolist() == rounded_up(exact)
    assert 0 < found.found_by[NEAREST.label] < len(images)


def test_who_found_it_counts_neither_wrong_images_nor_those_that_are_never_fooled():
    """Of three images one is fooled."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((3, 1, 6, 6), 0.51, dtype=torch.float64), torch.tensor([0, 1, 0])
    images[2] = 0.9
    found = pstar_by(Ensemble(searches=("fast", STEP)), model, images, labels, (0.0, 0.1, 0.2))
    assert found.pstar.tolist() == [1, MISCLASSIFIED, 3]
    assert found.found_by == {"fast": 1, "own_attacks:step": 0}


@pytest.mark.parametrize("after", [0, 1, 3, 6, 30])
def test_an_interrupted_ensemble_goes_on(after):
    """Through the state of each of its searches."""
    model, images, labels, _ = linear_case(3)
    search = Ensemble(searches=("fast", STEP, NEAREST))
    given = {"keep_adversarials": True, "batch_size": 5}
    resumed = interrupted(lambda: estimator(search, problem_of(model, images, labels, **given)), after).outcome
    whole = pstar_by(search, model, images, labels, **given)
    assert plain(vars(resumed)) == plain(vars(whole))


# --- L2 ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("search", ["fast", "thorough", attack("own_attacks:nearest", overshoot=1.001, norm="l2")])
def test_a_linear_models_pstar_in_l2_is_its_margin_over_the_length_of_its_weights(search):
    """Rounded up to the grid; the search is told the norm by the problem."""
    model, images, labels, exact = linear_case(3)
    weight = model[1].weight[0].detach()
    distances = exact * weight.abs().sum() / weight.norm()
    found = pstar_by(search, model, images, labels, L2, norm="l2", keep_adversarials=True)
    assert found.pstar.tolist() == rounded_up(distances, L2)
    far = (found.adversarials - images).flatten(1).norm(dim=1)
    assert (far <= torch.tensor(L2)[found.pstar] + 1e-6).all()


def test_in_l2_what_nothing_fools_is_censored_without_the_binary_search():
    """Which attacks in L∞, where the same radius reaches farther."""
    model = linear(torch.ones(36, dtype=torch.float64), bias=-18.0)
    images, labels = torch.full((1, 1, 6, 6), 0.6, dtype=torch.float64), torch.tensor([0])
    assert fast(model, images, labels, (0.0, 0.25, 0.5), norm="l2").pstar.tolist() == [3]
    assert fast(model, images, labels, (0.0, 0.25, 0.5)).pstar.tolist() == [1]


def test_the_reference_search_knows_no_l2():
    """It is that of the published study."""
    model, images, labels, _ = linear_case(3)
    with pytest.raises(RobbenchError, match="search: expected another one for norm l2, got 'reference'"):
        pstar_by("reference", model, images, labels, norm="l2")


# --- what cannot be called ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("own_attacks:step", {"shar": 1}, "unknown option of own_attacks:step 'shar'; .* (did you mean 'share'?)"),
        ("own_attacks:stop", {}, "attack 'own_attacks:stop': tried `from own_attacks import stop`, got AttributeError"),
        ("no_such_module:step", {}, "tried `from no_such_module import step`, got ModuleNotFoundError"),
    ],
)
def test_what_cannot_be_called_is_refused_before_anything_is_trained(name, options, message):
    """As a search and in a final test."""
    grid, pgd = EpsilonGrid(stop=0.2, step=0.1), oracle(2)
    search = Estimate(grid=grid, attack=pgd, search=Ensemble(searches=("fast", attack(name, **options))))
    final = Estimate(grid=grid, attack=pgd, final_test=(attack(name, epsilon=0.1, **options),))
    for estimate in (search, final):
        with pytest.raises(RobbenchError, match=message.replace("(", r"\(").replace(")", r"\)").replace("?", r"\?")):
            check_attacks(estimate)


def test_a_missing_library_is_named(monkeypatch):
    """With where it is said how to install it."""
    monkeypatch.setitem(__import__("sys").modules, "adv_lib.attacks", None)
    with pytest.raises(RobbenchError, match=r"expected adv-lib to be installed, got .*docs/attacks\.md"):
        attack_function(attack("adv_lib:fmn"), "linf")


def test_images_of_another_shape_are_refused():
    """With the shape that is expected."""
    model, images, labels, _ = linear_case(3)
    with pytest.raises(RobbenchError, match=r"own_attacks:flat: expected images of shape \(12, 1, 6, 6\), got .*36"):
        pstar_by(attack("own_attacks:flat"), model, images, labels)


# --- the libraries -----------------------------------------------------------------------------------------------------

installed = pytest.mark.skipif(
    not (find_spec("adv_lib") and find_spec("pyautoattack")),
    reason="adversarial-library and pyautoattack are not installed (the extra `attacks`)",
)


OTHERS = [
    (attack("adv_lib:apgd", n_iter=20), "linf", 1.1),
    (attack("adv_lib:apgd", n_iter=20), "l2", 1.1),
    (attack("adv_lib:apgd_t", n_iter=10, loss_function="ce"), "linf", 1.1),
    (attack("adv_lib:fab", n_iter=20), "linf", 1.1),
    (attack("adv_lib:fab", n_iter=20), "l2", 1.1),
    (attack("adv_lib:fmn", steps=300), "linf", 1.1),
    (attack("adv_lib:fmn", steps=300), "l2", 1.1),
    (attack("adv_lib:ddn"), "l2", 1.1),
    (attack("pyautoattack:square", n_queries=300), "linf", 2),
]


def named(value):
    """The attack's own name; norms are their own."""
    return getattr(value, "label", None) or str(value)


@installed
@pytest.mark.parametrize(("search", "norm", "most"), OTHERS, ids=named)
def test_attacks_of_other_libraries_find_about_what_the_fast_search_does(trained, search, norm, most):
    """For every image that is right, in the middle at most so many times as much."""
    images, labels = problem(40, seed=5)
    given = deepcopy(trained).float(), images, labels, GRID if norm == "linf" else L2
    found, ours = pstar_by(search, *given, norm=norm).pstar, fast(*given, norm=norm).pstar
    right = ours >= 0
    assert ((found >= 0) == right).all()
    assert 0.98 <= (found[right] / ours[right]).median() <= most


@installed
@pytest.mark.parametrize(("search", "norm"), [each[:2] for each in OTHERS if "fab" not in each[0].name], ids=named)
def test_an_images_pstar_by_another_library_does_not_depend_on_its_batch(trained, search, norm):
    """In float64, where rounding does not either; FAB knows float32 alone."""
    images, labels = problem(20, seed=5)
    given = trained, images.double() / 255, labels, GRID if norm == "linf" else L2
    in_sevens = pstar_by(search, *given, norm=norm, batch_size=7).pstar
    assert torch.equal(in_sevens, pstar_by(search, *given, norm=norm).pstar)


@installed
def test_other_libraries_passes_are_counted_in_the_network(trained):
    """FMN passes every image forward and backward once a step, and one counterexample forward for each."""
    images, labels = problem(40, seed=5)
    found = pstar_by(attack("adv_lib:fmn", steps=5), trained, images.double() / 255, labels)
    right = int((found.pstar >= 0).sum())
    assert (found.forward, found.backward) == (40 + right * (5 + 1), right * 5)
