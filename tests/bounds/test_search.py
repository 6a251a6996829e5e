"""The largest certified radius of each image."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from networks import linear_case

from robbench.bounds import BoundSearch, Certification
from robbench.errors import RobbenchError

GRID = [round(0.0025 * place, 10) for place in range(40)]


def problem(seed=3, **changes):
    """Linear networks, for which every bound is exact."""
    network, images, labels, pstar = linear_case(seed)
    places = torch.searchsorted(torch.tensor(GRID, dtype=torch.float64), pstar)
    values = {
        "network": network,
        "images": images,
        "labels": labels,
        "grid": GRID,
        "pstar": places,
        "names": range(100, 112),
        "classes": 2,
    }
    return Certification(**(values | changes)), pstar


def run(search):
    """The search at its end."""
    while not search.done:
        search.step()
    return search


@pytest.mark.parametrize("probes", [1, 3, 50])
@pytest.mark.parametrize("method", ["ibp", "crown"])
def test_of_a_linear_network_it_is_one_step_below_pstar(method, probes):
    """Where |w·x + b| ÷ ‖w‖₁ is not within rounding of a grid value; k-section finds what bisection finds."""
    posed, pstar = problem(method=method, probes=probes)
    found = run(BoundSearch(posed, [])).certified
    clear = (pstar / 0.0025 - (pstar / 0.0025).round()).abs() > 0.01
    assert clear.sum() > 8
    assert torch.equal(found[clear], posed.pstar[clear] - 1)


def test_without_a_counterexample_the_whole_grid_may_be_certified():
    """The largest radius is that of the grid."""
    posed, pstar = problem()
    far = slice(int(pstar.argmax()), int(pstar.argmax()) + 1)
    posed = replace(posed, images=posed.images[far], labels=posed.labels[far], grid=GRID[:3], pstar=torch.tensor([3]))
    assert run(BoundSearch(posed, [])).certified.tolist() == [2]


def test_a_certified_counterexample_fails_and_names_the_image():
    """Bound or counterexample is wrong, and nothing is counted."""
    posed, pstar = problem()
    wrong, far = posed.pstar.clone(), int(pstar.argmax())
    wrong[far] = 1
    with pytest.raises(RobbenchError, match=rf"bounds of image {100 + far}: .*radius 0.0025 certified"):
        run(BoundSearch(replace(posed, pstar=wrong), []))


def test_it_goes_on_from_a_saved_state(monkeypatch):
    """A resumed search finds what an uninterrupted one finds."""
    monkeypatch.setattr("robbench.bounds.search.IMAGES", 5)
    posed, _ = problem()
    whole, first, second = run(BoundSearch(posed, [])), BoundSearch(posed, []), BoundSearch(posed, [])
    first.step()
    second.load_state_dict(first.state_dict())
    run(second)
    assert torch.equal(second.certified, whole.certified)
    assert torch.equal(second.by, whole.by)
    assert second.rows == whole.rows
