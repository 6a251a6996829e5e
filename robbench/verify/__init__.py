"""Proof that the counterexamples behind a bundle's p* are what it says."""
