"""Text that somebody else wrote, before it is shown. No torch."""

from __future__ import annotations


def printable(text: str) -> str:
    """The text on one line, without what no terminal shows as it stands.

    White space of any kind becomes spaces; whatever else ``str.isprintable`` refuses is left out: control characters, and
    with them what makes an escape sequence one, letters without width, and those that turn the direction of others.
    """
    if text.isprintable():
        return text
    return "".join(letter if letter.isprintable() else " " if letter.isspace() else "" for letter in text)


def printable_lines(text: str) -> str:
    """:func:`printable`, line by line."""
    return "\n".join(map(printable, text.split("\n")))
