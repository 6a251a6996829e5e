"""Transfers on photographs: what they need, and their suites."""
