"""Baselines and the verdicts on what differs from them. No torch."""
