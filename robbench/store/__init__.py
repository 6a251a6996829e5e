"""Finished stages and the saved state of unfinished ones, on disk: atomic files and locks. No torch until it is used."""

from robbench.store.store import Finished, Need, Store

__all__ = ["Finished", "Need", "Store"]
