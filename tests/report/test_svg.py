"""Pictures of the HTML: where things lie, and what stands on the axes."""

import re
from xml.etree import ElementTree

import pytest

from robbench.report.svg import WIDTH, Axis, Box, Line, Mark, boxes, plot

UNIT = Axis(low=0.0, high=1.0)


@pytest.mark.parametrize(
    ("axis", "ticks"),
    [
        (UNIT, ["0", "0.2", "0.4", "0.6", "0.8", "1"]),
        (Axis(low=0.0, high=1.0, percent=True), ["0%", "20%", "40%", "60%", "80%", "100%"]),
        (Axis(low=0.5, high=7.5, whole=True), ["2", "4", "6"]),
        (Axis(low=0.4, high=2_000.0, log=True), ["1", "10", "100", "1,000"]),
        (Axis(low=0.4, high=12.0, log=True), ["1", "3", "10"]),
        (Axis(low=-0.3, high=1.3, names=["a", "<b>"]), ["a", "&lt;b&gt;"]),
    ],
    ids=["shares", "percent", "whole", "log", "short log", "names"],
)
def test_ticks_are_round(axis: Axis, ticks: list[str]) -> None:
    """About five of them, within the axis."""
    assert [axis.text(tick) for tick in axis.ticks] == ticks


def test_a_mark_lies_where_its_figures_are() -> None:
    """In the middle of both axes; beyond them, at their ends; its value is its title, as text."""
    marks = [
        Mark(x=0.5, y=0.5, title="a < b", colour="#000000", x_ends=(0.25, 0.75)),
        Mark(x=9.0, y=0.0, title="far", colour="#000000"),
    ]
    picture = plot("p", UNIT, UNIT, marks, [Line(points=[(0, 0), (1, 1)], title="up", colour="#000000", steps=True)])
    tree = ElementTree.fromstring(picture)
    circles = [circle for circle in tree.iter("circle") if circle.get("class") != "near"]
    (middle, far) = [(float(circle.get("cx", 0)), float(circle.get("cy", 0))) for circle in circles]
    left, bottom = 54.0, 260.0
    assert middle == pytest.approx(((left + WIDTH - 12) / 2, (bottom + 10) / 2))
    assert far == pytest.approx((WIDTH - 12, bottom))
    assert [title.text for title in tree.iter("title")] == ["up", "a < b", "far"]
    assert re.search(r'd="M54\.0 260\.0 H448\.0V10\.0"', picture)


def test_a_box_past_the_axis_ends_in_an_arrow() -> None:
    """Five percentiles; the last past the end."""
    rows = [
        Box(name=name, percentiles=(0.1, 0.2, 0.3, 0.4, end), title=name, colour="#000000")
        for name, end in (("in", 0.9), ("out", 2.0))
    ]
    inside, outside = ElementTree.fromstring(boxes("b", UNIT, rows)).iter("g")
    assert [
        len([part for part in group if part.get("fill") == "#000000" and part.tag == "path"])
        for group in (inside, outside)
    ] == [0, 1]
