"""p*: the published binary search, the shrinking ball, attacks at fixed radii, and the audit of them."""

from robbench.estimation.audit import AuditPart
from robbench.estimation.estimators import Estimator, estimate_pstar, estimator
from robbench.estimation.fixed_radii import FixedRadii
from robbench.estimation.problem import Outcome, Problem

__all__ = ["AuditPart", "Estimator", "FixedRadii", "Outcome", "Problem", "estimate_pstar", "estimator"]
