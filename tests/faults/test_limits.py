"""Images and models at their limits: an answer, or one error."""

from __future__ import annotations

import pytest
import torch
from factories import both_records, make_facts, robustness_record, training_record
from torch import nn

import robbench.report.bundle
from robbench.estimation.estimators import estimate_pstar
from robbench.record import MISCLASSIFIED
from robbench.report import Bundle, render
from robbench.spec import PGD

ATTACK = PGD(steps=3, random_start=False)
GRID = [0.0, 0.1, 0.2]


class Always(nn.Module):
    """Says the same class of every image, with a gradient that leads nowhere."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = nn.Parameter(torch.nn.functional.one_hot(torch.tensor(answer), 3).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3) logits."""
        return self.answer + 0 * images.flatten(1).sum(1, keepdim=True)


@pytest.mark.parametrize("search", ["reference", "fast"])
@pytest.mark.parametrize("count", [1, 5])
def test_all_wrong_and_none_fooled_are_answers(search: str, count: int) -> None:
    """Of any number of images: no p* at all, or p* beyond the grid of every one."""
    images = torch.full((count, 1, 2, 2), 0.5)
    for label, expected in ((0, len(GRID)), (1, MISCLASSIFIED)):
        found = estimate_pstar(Always(0), images, torch.full((count,), label), GRID, ATTACK, search=search)  # type: ignore[arg-type]
        assert found.pstar.tolist() == [expected] * count


@pytest.mark.parametrize(("places", "words"), [([-1] * 4, "–"), ([5] * 4, "> 0.4"), ([0, 0], "0"), ([3], "0.3")])
def test_such_models_have_a_report_and_a_verdict(
    monkeypatch: pytest.MonkeyPatch, places: list[int], words: str
) -> None:
    """All wrong, none fooled, all fooled by nothing, a single image."""
    monkeypatch.setattr(robbench.report.bundle, "draw", lambda group: [])
    records = [
        *both_records(make_facts(), places),
        *both_records(make_facts("transfer", "emnist", 1), places),
        *both_records(make_facts("pgd", "emnist"), places),
    ]
    text = render(Bundle(title="t", command="c", records=records))["report.md"].decode()
    assert words in text
    assert not any(word in text for word in ("nan", "NaN", "inf%"))


@pytest.mark.parametrize("grid", [[0.0], [0.1]])
def test_a_grid_of_one_value_has_a_report(grid: list[float]) -> None:
    """With pictures."""
    records = [
        record
        for facts in (make_facts(), make_facts("transfer", "emnist", 1), make_facts("pgd", "emnist"))
        for record in (training_record(facts), robustness_record(facts, [0, 1, -1], grid))
    ]
    assert render(Bundle(title="t", command="c", records=records))["report.md"]
