"""Text for terminals and files of an encoding that lacks some of its characters, as cp1252 lacks arrows."""

from __future__ import annotations

import codecs
import sys

ERRORS = "robbench"
"""Name of the error handler: ``stream.reconfigure(errors=ERRORS)``."""

_PLAIN = {"→": "->", "≥": ">=", "≤": "<=", "−": "-", "–": "-", "…": "...", "×": "x", "÷": "/", "±": "+-", "·": "|"}
_PLAIN |= {"ε": "epsilon", "∞": "inf", "⚠": "!"}


def for_terminal(text: str) -> str:
    """The text with only characters that the terminal has; pytest writes others as escapes, line ends included."""
    encoding = sys.__stdout__.encoding if sys.__stdout__ else "utf-8"
    return text.encode(encoding, ERRORS).decode(encoding)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(_PLAIN.get(letter, "?") for letter in error.object[error.start : error.end]), error.end


codecs.register_error(ERRORS, _replaced)
