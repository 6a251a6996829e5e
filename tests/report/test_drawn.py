"""What pictures show, read from the figures before they become PNGs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from factories import both_records, make_facts, make_group, transfer
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from robbench.report import ablation, dots, drawing, durations, tradeoff
from robbench.report.labels import Label, place_labels
from robbench.report.rows import group_records

SOURCE, SCRATCH = make_facts("pgd", "mnist"), make_facts("pgd", "emnist")


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Figure]:
    """Calls what draws a picture; returns the figure."""
    caught: list[Figure] = []

    def catch(figure: Figure) -> bytes:
        figure.canvas.draw()
        caught.append(figure)
        return b""

    monkeypatch.setattr(drawing, "png", catch)

    def call(draw: Callable[..., bytes], *arguments: object) -> Figure:
        draw(*arguments)
        return caught[-1]

    return call


def arrows(figure: Figure) -> list[list[tuple[float, float]]]:
    """Where the arrows of every panel start."""
    return [[text.xyann for text in axes.texts if text.arrow_patch] for axes in figure.axes]


def legend(figure: Figure) -> list[str]:
    """The texts below or beside the panels."""
    found = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
    return [text.get_text() for each in found if each for text in each.get_texts()]


PAST = "the interval goes on past the axis"


def test_an_interval_past_the_axis_ends_in_an_arrowhead(drawn: Callable[..., Figure]) -> None:
    """TL#1 rests on three images, 0.1 to 0.4: its interval reaches past both axes and TL#2's stays inside."""
    records = [
        *(both_records(SOURCE, [1] * 30), both_records(SCRATCH, [2] * 30)),
        *(transfer(1, [1, 1, 4] + [-1] * 27), transfer(2, [1] * 30)),
    ]
    figure = drawn(dots.draw_answers, make_group(*records))
    retention, relative, faster = arrows(figure)
    assert [y for _, y in retention] == [1.0]
    assert [y for _, y in relative] == [0.5]
    assert faster == []
    assert PAST in legend(figure)
    inside = drawn(dots.draw_answers, make_group(*records[:2], records[3]))
    assert (arrows(inside), PAST in legend(inside)) == ([[], [], []], False)


def test_only_questions_that_can_be_answered_have_a_panel(drawn: Callable[..., Figure]) -> None:
    """Without the source the first goes, without a model from scratch the others."""
    source, scratch, transferred = both_records(SOURCE, [4] * 9), both_records(SCRATCH, [3] * 9), transfer(1, [2] * 9)
    for records, count in (([source, scratch], 3), ([source], 1), ([scratch], 2)):
        assert len(drawn(dots.draw_answers, make_group(*records, transferred)).axes) == count


def test_an_ablations_interval_past_the_grid_is_an_arrow(drawn: Callable[..., Figure]) -> None:
    """To the right where the variant may be past the grid's end, to the left where the base may be."""
    base, shaky = [2] * 40, [2] * 22 + [5] * 18
    for before, after, edge in ((base, shaky, 1.0), (shaky, base, 0.0)):
        found = make_group(transfer(1, before), transfer(1, after, variant="box"))
        (axes,) = drawn(ablation.draw_ablation, found).axes
        assert [text.xy[0] for text in axes.texts if text.arrow_patch] == [edge]


@pytest.mark.parametrize("wrong", [0, 100], ids=["all right", "almost all wrong"])
def test_no_accuracy_past_its_limits_is_on_the_axis(drawn: Callable[..., Figure], wrong: int) -> None:
    """The axis ends half a marker beyond 0% or 100%."""
    found = make_group(
        both_records(SOURCE, [2] * 100), transfer(1, [1] * 50 + [-1] * 50), transfer(2, [1] + [-1] * 199)
    )
    (axes,) = drawn(tradeoff.draw_tradeoff, found).axes
    left, right = axes.get_xlim()
    assert -2 < left < 0.5
    assert 100 < right < 102


def test_networks_of_a_study_share_their_axes(drawn: Callable[..., Figure]) -> None:
    """Equal heights are equal medians; a band for censored medians stands in every panel or in none."""
    groups = group_records([*transfer(1, [1] * 9), *transfer(1, [5] * 9, architecture="cnn4")])
    first, second = drawn(tradeoff.draw_study_tradeoff, groups).axes
    assert (first.get_xlim(), first.get_ylim()) == (second.get_xlim(), second.get_ylim())
    assert [len(axes.patches) for axes in (first, second)] == [1, 1]


def placed(points: dict[str, tuple[float, float]], error: float) -> dict[str, tuple[Bbox, dict[str, np.ndarray]]]:
    """Where the labels of points with error bars are written, and where the points lie, in pixels."""
    with drawing.canvas(4.0, 4.0) as figure:
        axes = figure.subplots()
        axes.set(xlim=(0, 2), ylim=(0, 2))
        axes.plot(*zip(*points.values(), strict=True), "o-")
        axes.errorbar(1.0, 1.0, xerr=error, yerr=error, fmt="none")
        place_labels(figure, axes, [Label(*at, text, "#000000") for text, at in points.items()])
        pixels = {text: axes.transData.transform(at) for text, at in points.items()}
        return {text.get_text(): (text.get_window_extent(), pixels) for text in axes.texts if text.get_text()}


def test_a_label_covers_no_line_between_seeds() -> None:
    """A number above its point, or beside it, would lie on an error bar there."""
    ((box, points),) = placed({"3": (1.0, 1.0)}, 0.8).values()
    assert not box.x0 < points["3"][0] < box.x1
    assert not box.y0 < points["3"][1] < box.y1


def test_a_label_is_nearest_its_own_point() -> None:
    """Two points above each other: the lower one's number is not written beside the upper one's."""
    for text, (box, points) in placed({"2": (1.0, 1.05), "3": (1.0, 1.0)}, 0.5).items():
        gaps = {name: math.dist(at, (box.get_points().mean(axis=0))) for name, at in points.items()}
        assert gaps[text] <= min(gaps.values()) + 0.5


def test_the_axis_of_seconds_holds_every_seed(drawn: Callable[..., Figure]) -> None:
    """Medians of 10 s over seeds between 0.1 s and 1,000 s."""
    found = make_group(*(transfer(1, [1], seconds, seed=seed) for seed, seconds in enumerate((0.1, 10.0, 1000.0))))
    figure = drawn(durations.draw_seconds, found)
    low, high = figure.axes[0].get_xlim()
    assert low < 0.1
    assert high > 1000.0
    assert "from the fastest to the slowest seed" in legend(figure)
