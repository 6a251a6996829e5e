"""Finished stages and the saved state of unfinished ones, on disk: atomic files and locks. No torch until it is used."""

from robbench.store.store import Finished, Store

__all__ = ["Finished", "Store"]
