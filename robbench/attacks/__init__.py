"""FGSM, PGD, Auto-PGD, and the check that a counterexample is one."""

from robbench.attacks.apgd import apgd_t
from robbench.attacks.counterexamples import BALL_TOLERANCE, distance, is_counterexample, is_right
from robbench.attacks.losses import AttackLoss, cross_entropy, dice, dice_of_right, divergence
from robbench.attacks.modes import evaluating, without_parameter_gradients
from robbench.attacks.passes import Passes, counted
from robbench.attacks.pgd import fgsm, gradient_of, pgd, start_noise

__all__ = [
    "BALL_TOLERANCE",
    "AttackLoss",
    "Passes",
    "apgd_t",
    "counted",
    "cross_entropy",
    "dice",
    "dice_of_right",
    "distance",
    "divergence",
    "evaluating",
    "fgsm",
    "gradient_of",
    "is_counterexample",
    "is_right",
    "pgd",
    "start_noise",
    "without_parameter_gradients",
]
