"""What is shown of text that somebody else wrote."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robbench.report.text import printable, printable_lines


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("relu_4_1024, p* ≤ 0.1 – é 漢 ⚠", "relu_4_1024, p* ≤ 0.1 – é 漢 ⚠"),
        ("\x1b[31mred\x1b[0m\x07\x7f\x9b", "[31mred[0m"),
        ("\u202egnp\u2066\u200b\ufeff\u00ad\ud800", "gnp"),
        ("a\tb\nc\r\nd\u00a0e\u2028f  g", "a b c  d e f  g"),
    ],
)
def test_what_no_terminal_shows_is_left_out(text, shown):
    """Control and format characters go, white space becomes spaces, and all other text stays."""
    assert printable(text) == shown


@given(st.text())
def test_any_text_is_printable_afterwards(text):
    """Line by line as well, with as many lines."""
    assert printable(text).isprintable()
    assert printable(printable(text)) == printable(text)
    lines = printable_lines(text).split("\n")
    assert all(line.isprintable() for line in lines)
    assert len(lines) == len(text.split("\n"))
