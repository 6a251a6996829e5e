"""Certified lower bounds: within which radius no perturbation changes the class."""
