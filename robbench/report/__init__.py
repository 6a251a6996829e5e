"""Reports from records alone: no torch, so that any machine can render them."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from robbench.report.bundle import Bundle, merge, read_bundle, render, write_bundle
    from robbench.report.perf import write_performance
    from robbench.report.performance import Performance, merged, read_performance

__all__ = [
    "Bundle",
    "Performance",
    "merge",
    "merged",
    "read_bundle",
    "read_performance",
    "render",
    "write_bundle",
    "write_performance",
]

_PERFORMANCE = {"Performance": "performance", "merged": "performance", "read_performance": "performance"}
_MODULES = dict.fromkeys(__all__, "bundle") | _PERFORMANCE | {"write_performance": "perf"}


def __getattr__(name: str) -> Any:
    """Import pandas and matplotlib only when something is rendered: the table of a run's end needs neither."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
