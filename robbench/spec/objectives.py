"""What training minimises beside cross-entropy, each a frozen spec; ``robbench.training`` holds the computations."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from robbench.errors import require
from robbench.spec.base import Expected, NonNegative, Positive, Radius
from robbench.spec.training import Objective, Recipe

_Weight = Annotated[float, Field(ge=0, le=1), Expected("a number from 0 to 1")]


class LwF(Objective):
    """Learning without forgetting (Shafahi et al. 2020, "Adversarially robust transfer learning", arXiv 1905.08232).

    Cross-entropy on natural target images + ``penalty`` · mean ‖z(x) − z₀(x)‖, where z and z₀ are the inputs of the
    whole head of the student and of its robust source. Declared as ``Transfers(recipe=…, k=(1,), kept="finetuned")``
    with any head: for ``head_share`` of the epochs only the new head learns, at the full rate; then everything does,
    at ``kept_scale`` times that. The kept blocks stay in eval mode (``kept_statistics="eval"``).

    That the head is trained alone for half of the epochs is our choice; with 0 it learns at the full rate throughout.
    """

    parents: ClassVar[tuple[str, ...]] = ("source",)
    penalty: NonNegative = 0.005
    norm: Literal["l1", "l2"] = "l1"
    head_share: _Weight = 0.5

    def check(self, recipe: Recipe) -> None:
        """Raise a RobbenchError beside an attack: the method sees natural images only."""
        require(recipe.attack is None, "Recipe attack", "none with LwF, which trains on natural images", recipe.attack)


class TRADES(Objective):
    """Cross-entropy of x + ``beta`` · KL(p(x) ‖ p(x')) (Zhang et al. 2019, arXiv 1901.08573; their λ is 1/β).

    x' maximises the KL divergence by the recipe's PGD, from x + 0.001 · N(0, 1), in float32 whatever the precision:
    bfloat16 rounds so small a start away. Gradients flow through p(x), too, as in the authors' code.
    """

    needs_attack: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    looks: ClassVar[int] = 1
    beta: NonNegative = 6.0

    def check(self, recipe: Recipe) -> None:
        """Raise a RobbenchError without an attack, or where it begins at x, where the divergence has no slope."""
        super().check(recipe)
        random = recipe.attack is None or recipe.attack.random_start
        require(random, "Recipe attack random_start", "True with TRADES, whose attack cannot leave the image", False)


class MART(Objective):
    """BCE(x') + ``weight`` · mean KL(p(x) ‖ p(x')) · (1 − p_y(x)) (Wang et al. 2020, openreview rklOg6EFwS).

    BCE is −log p_y(x') − log(1 − max of the other p_k(x')). x' is by the recipe's PGD on the cross-entropy. The paper's
    λ is 5; the authors' code has 6, and begins its attack at x + 0.001 · N(0, 1), this one as the recipe says.
    """

    needs_attack: ClassVar[bool] = True
    passes: ClassVar[int] = 2
    weight: NonNegative = 5.0


class TWINS(Objective):
    """CE(x') by batch statistics + ``weight`` · CE(x') by the source's (Liu et al. 2023, arXiv 2303.11135).

    As in the authors' code (github.com/ziquanliu/CVPR2023-TWINS, the variant of adversarial training): the first half of
    each batch goes through the branch whose batch norms divide by the source's statistics, the second half through the one
    that divides by its own, which attacks both in eval mode and is the network in the end. Their λ is 1 on CIFAR, 0.4 on
    Caltech-256. There each branch also has a scale and shift of its own in every batch norm, both trained; here the two
    share all parameters, so that the network keeps its architecture.

    Declared as ``Transfers(recipe=…, k=(1,), kept="warm")``, since all layers learn.
    """

    parents: ClassVar[tuple[str, ...]] = ("source",)
    needs_attack: ClassVar[bool] = True
    weight: NonNegative = 1.0


class DicePGD(Objective):
    """Cross-entropy on images that Dice-PGD attacked: how DARD trains its teacher (Zou et al. 2025, arXiv 2509.11525).

    The attack maximises (1 − λ_t) · Dice on images still right + λ_t · Dice on those already wrong, λ_t = (t − 1) ÷
    2T in step t of T. Dice is taken image by image, so that a result does not depend on its batch. Then the steps,
    which follow signs, see nothing of a weight but λ_1 = 0: an image that is wrong at the start does not move in the
    first step.

    Our choice where the formulas leave it open: Dice's denominator has squares, 1 − 2 p_y ÷ (Σ p² + 1) (Milletari et
    al. 2016). With plain sums it is 1 − p_y for an image, and the attack is PGD on the cross-entropy over again. T is
    10 in the paper, and the recipe's ``attack.steps`` here.
    """

    needs_attack: ClassVar[bool] = True


class Distillation(Objective):
    """Base of objectives that imitate ``Model.teacher``, of any architecture, trained or a checkpoint.

    The teacher, in eval mode, sees the same crop as the student. KL is summed over classes and averaged over images;
    the published codes of ARD and RSLAD average over classes, too.
    """

    parents: ClassVar[tuple[str, ...]] = ("teacher",)
    needs_attack: ClassVar[bool] = True
    passes: ClassVar[int] = 2


class ARD(Distillation):
    """α T² KL(t(x) ‖ s(x')) + (1 − α) CE(x) (Goldblum et al. 2020, arXiv 1905.09747).

    s and t are softmax at ``temperature`` T; x' is by PGD on the student's cross-entropy. The defaults are
    those of the authors' code.
    """

    alpha: _Weight = 1.0
    temperature: Positive = 30.0


class RSLAD(Distillation):
    """α KL(t(x) ‖ s(x')) + (1 − α) KL(t(x) ‖ s(x)), no labels (Zi et al. 2021, arXiv 2108.07969).

    x' maximises KL(t(x) ‖ s(x')) from x + 0.001 · N(0, 1). α is 5/6 in the authors' code.
    """

    alpha: _Weight = 5 / 6


class DARD(Distillation):
    """½ [L(x, t(x)) + L(x', t(x'))], L = α T² KL(t ‖ s) + (1 − α) CE(s) (Zou et al. 2025, arXiv 2509.11525).

    s and t are softmax at ``temperature`` T. x' is by Dice-PGD on the student (see :class:`DicePGD`), which also trains
    the teacher. That its images are made on it, not on the teacher, is our choice where the formulas leave it open.
    """

    alpha: _Weight = 0.7
    temperature: Positive = 3.0


class IBP(Objective):
    """Certified training: κ · CE(z(x)) + (1 − κ) · CE(worst z over the ball) (Gowal et al. 2018, eq. 12).

    The worst logits come from interval bounds over the L∞ ball of ``epsilon`` cut to [0, 1]. After ``warm_up`` ε grows from
    0 and κ falls from 1 to ``kappa``, both linearly over ``ramp``: without a ramp training collapses to a constant network.
    ``crown`` mixes CROWN-IBP bounds in at the start of the ramp and none at its end (Zhang et al. 2020, section 3.2).
    """

    on_images: ClassVar[bool] = True
    epsilon: Radius
    kappa: _Weight = 0.5
    warm_up: _Weight = 0.05
    """Share of the training on clean images alone."""
    ramp: _Weight = 0.55
    """Share of the training after that, over which ε and κ change."""
    crown: bool = False

    def check(self, recipe: Recipe) -> None:
        """Raise a RobbenchError beside an attack, in bfloat16, or where an early epoch could be kept."""
        require(recipe.attack is None, "Recipe attack", "none with IBP, which bounds all attacks", recipe.attack)
        require(recipe.precision == "float32", "Recipe precision", "float32 with IBP", recipe.precision)
        last = "last with IBP, whose early epochs are trained for smaller radii"
        require(recipe.kept_epoch == "last", "Recipe kept_epoch", last, recipe.kept_epoch)
        require(recipe.early_stopping is None, "Recipe early_stopping", "none with IBP", recipe.early_stopping)
        whole = self.warm_up + self.ramp <= 1
        require(whole, "IBP warm_up and ramp", "shares that add up to 1 at most", (self.warm_up, self.ramp))
