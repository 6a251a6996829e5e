"""FGSM, PGD, Auto-PGD, and the check that a counterexample is one."""

from robbench.attacks.apgd import apgd_t
from robbench.attacks.counterexamples import BALL_TOLERANCE, distance, is_counterexample, is_right
from robbench.attacks.modes import evaluating, without_parameter_gradients
from robbench.attacks.passes import Passes, counted
from robbench.attacks.pgd import AttackLoss, cross_entropy, fgsm, gradient_of, pgd, start_noise

__all__ = [
    "BALL_TOLERANCE",
    "AttackLoss",
    "Passes",
    "apgd_t",
    "counted",
    "cross_entropy",
    "distance",
    "evaluating",
    "fgsm",
    "gradient_of",
    "is_counterexample",
    "is_right",
    "pgd",
    "start_noise",
    "without_parameter_gradients",
]
