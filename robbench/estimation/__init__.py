"""p*: the published binary search, the shrinking ball, attacks at fixed radii, and the audit of them.

What others use: :class:`robbench.estimation.problem.Problem`, and
:func:`robbench.estimation.estimators.estimator` of it; :class:`robbench.estimation.fixed_radii.FixedRadii` and
:class:`robbench.estimation.audit.AuditPart` after it.
"""
