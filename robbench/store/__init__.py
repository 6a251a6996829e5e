"""Finished stages and the saved state of unfinished ones, on disk: atomic files and locks."""
