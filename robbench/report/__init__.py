"""Reports from records alone: no torch, so that any machine can render them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robbench.report.bundle import Bundle, merge, read_bundle, render, write_bundle
    from robbench.report.in_short import summary

__all__ = ["Bundle", "merge", "read_bundle", "render", "summary", "write_bundle"]


def __getattr__(name: str) -> Any:
    """Import pandas and matplotlib only when something is rendered: the table of a run's end needs neither."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"robbench.report.{'in_short' if name == 'summary' else 'bundle'}"), name)
