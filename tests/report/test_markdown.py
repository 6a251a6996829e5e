"""Figures and names as text."""

import math

import pandas as pd
import pytest

from robbench.report.markdown import escape, pstar, radius, seconds, signed, table, times


@pytest.mark.parametrize(
    ("factor", "words"),
    [(64.2, "64.2 times faster"), (1.004, "as fast"), (0.996, "as fast"), (0.943, "0.943 times as fast")],
)
def test_a_factor_of_time_in_words_is_the_figure_of_the_tables(factor: float, words: str) -> None:
    """Slower too, so that the two never seem to differ."""
    assert times(factor) == words


def test_figures_read_as_people_write_them() -> None:
    """Signs, censored and missing medians, seconds with as many digits as mean anything."""
    assert (signed(-0.04, 1), signed(0.06, 1)) == ("0.0", "+0.1")
    assert (pstar(None, 0.8), pstar(math.inf, 0.8), pstar(0.27, 0.8)) == ("–", "> 0.8", "0.270")
    assert [seconds(value) for value in (None, 1.234, 12.34, 1234.0)] == ["–", "1.23", "12.3", "1,234"]
    assert pstar(0.0085, 0.109) == "0.0085"
    assert [radius(value) for value in (8 / 255, 0.2, 0.031, 0.0)] == ["8/255", "0.2", "0.031", "0"]


def test_names_are_literal() -> None:
    """Underscores within a name stay readable; what means something to Markdown is escaped."""
    assert escape("relu_4_1024 _x_ a|b\n*c*") == "relu_4_1024 \\_x\\_ a\\|b \\*c\\*"


def test_a_table_has_names_to_the_left_and_figures_to_the_right() -> None:
    """Cells stay the text that they are."""
    lines = table(pd.DataFrame({"name": ["a"], "figure": ["0.10"]})).splitlines()
    assert [line.replace(" ", "") for line in lines] == [
        "|name|figure|",
        "|:-------|---------:|".replace(" ", ""),
        "|a|0.10|",
    ]
