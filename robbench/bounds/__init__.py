"""Certified lower bounds: within which radius no image has another class."""

from robbench.bounds.propagation import BoundedNetwork, Boxes
from robbench.bounds.search import METHODS, BoundSearch, Certification

__all__ = ["METHODS", "BoundSearch", "BoundedNetwork", "Boxes", "Certification"]
