"""The few adversarial images that are kept of every model."""

import io

import numpy as np
import pytest
import torch
from networks import linear_case
from PIL import Image

from robbench.data import Images
from robbench.estimation.estimators import estimator
from robbench.estimation.problem import Outcome, Problem
from robbench.record import MISCLASSIFIED
from robbench.spec import PGD
from robbench.stages.examples import LARGEST, examples

GRID = [0.005 * step for step in range(60)]


@pytest.fixture
def searched(one_thread):
    """A linear model, p* of which is known, searched."""
    model, images, labels, _ = linear_case(3, count=20)
    problem = Problem(
        network=model,
        images=Images(images, labels),
        device=torch.device("cpu"),
        grid=GRID,
        attack=PGD(steps=10, random_start=False),
    )
    search = estimator("reference", problem)
    while not search.done:
        search.step()
    return problem, search.outcome


def test_the_worst_and_the_most_typical_images(searched):
    """Two of the smallest p*, two around the median, each with the p* of the search and another class than its own."""
    problem, found = searched
    shown = examples(problem, found, "reference", range(100, 120), ["no", "yes"])
    assert [each.kind for each in shown] == ["worst", "worst", "typical", "typical"]
    order = found.pstar.argsort(stable=True).tolist()
    assert [each.image - 100 for each in shown] == [*order[:2], *order[9:11]]
    assert [each.pstar for each in shown] == [GRID[found.pstar[each.image - 100]] for each in shown]
    assert all({each.label, each.says} == {"no", "yes"} for each in shown)


def test_a_picture_is_image_perturbation_and_adversarial_image(searched):
    """Side by side; the perturbation's largest change is black or white."""
    problem, found = searched
    (worst, *_) = examples(problem, found, "reference", range(20), ["no", "yes"])
    picture = np.asarray(Image.open(io.BytesIO(worst.png)))
    assert picture.shape == (6, 18)
    original = problem.images.images[worst.image, 0].numpy() * 255
    assert picture[:, :6] == pytest.approx(original, abs=0.51)
    assert {picture[:, 6:12].min(), picture[:, 6:12].max()} & {0, 255}
    assert abs(picture[:, 12:] - original).max() == pytest.approx(255 * worst.pstar, abs=1)


def test_large_images_are_shrunk(one_thread):
    """To LARGEST pixels a side."""
    side = 2 * LARGEST
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    with torch.no_grad():
        network[2].weight.copy_(torch.tensor([[1.0, 1, 1], [0, 0, 0]]))
        network[2].bias.copy_(torch.tensor([-1.4, 0.0]))
    problem = Problem(
        network=network,
        images=Images(torch.full((1, 3, side, side), 0.5), torch.tensor([0])),
        device=torch.device("cpu"),
        grid=GRID,
        attack=PGD(steps=4, random_start=False),
    )
    shown = examples(problem, Outcome(torch.tensor([8])), "reference", [0], ["a", "b"])
    assert Image.open(io.BytesIO(shown[0].png)).size == (3 * LARGEST, LARGEST)


@pytest.mark.parametrize("pstar", [MISCLASSIFIED, 0, len(GRID)], ids=["wrong", "at 0", "never fooled"])
def test_what_was_not_fooled_is_not_shown(searched, pstar):
    """There is nothing to see."""
    problem, _ = searched
    assert examples(problem, Outcome(torch.full((20,), pstar)), "reference", range(20), ["no", "yes"]) == []
