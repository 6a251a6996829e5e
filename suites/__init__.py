"""Suites: declarations of what robbench runs."""
