"""Tables A.1–A.9 of the study as values, and the two protocols: sound (default) and thesis."""

from __future__ import annotations

from dataclasses import replace

from robbench.errors import require
from robbench.spec import (
    PGD,
    PROTOCOL_FIELDS,
    EarlyStopping,
    EpsilonGrid,
    Estimate,
    MultiStepLR,
    Protocol,
    Recipe,
    StepLR,
    Study,
)

MNIST_STANDARD = Recipe(
    optimiser="adam",
    learning_rate=0.001,
    weight_decay=1e-4,
    batch_size=256,
    epochs=300,
    schedule=StepLR(step=10, gamma=0.98),
    early_stopping=EarlyStopping(patience=6),
)
"""Table A.1: conventional training, and transfer by conventional retraining."""

MNIST_ADVERSARY = PGD(epsilon=0.3, step_size=0.01, steps=40)
"""PGD-40 of section 5.2, while training and while validating."""

MNIST_PGD = replace(MNIST_STANDARD, attack=MNIST_ADVERSARY, early_stopping=EarlyStopping(patience=6, window=10))
"""Table A.2: adversarial training."""

MNIST_RETRAINING_PGD = replace(MNIST_PGD, epochs=30)
"""Table A.3: transfer by adversarial retraining; table B.4 ran 20 epochs (``EFFECTS``, ``epochs``)."""

CIFAR_STANDARD = Recipe(
    optimiser="sgd",
    learning_rate=0.1,
    weight_decay=5e-4,
    batch_size=128,
    epochs=200,
    schedule=MultiStepLR(milestones=(60, 120, 160), gamma=0.2),
)
"""Table A.4: conventional training of ResNet-18."""

CIFAR_STANDARD_EARLY = replace(CIFAR_STANDARD, early_stopping=EarlyStopping(patience=6))
"""Table A.4 with early stopping: ResNet-34, ResNet-50 and both wide residual networks."""

CIFAR_ADVERSARY = PGD(epsilon=8 / 255, step_size=2 / 255, steps=7)
"""PGD-7 of table A.5; section 5.2 says ε = 8/256."""

CIFAR_VALIDATION_ADVERSARY = PGD(epsilon=8 / 255, step_size=2 / 255, steps=20)

CIFAR_PGD = replace(CIFAR_STANDARD, attack=CIFAR_ADVERSARY, validation_attack=CIFAR_VALIDATION_ADVERSARY)
"""Table A.5: adversarial training of ResNet-18 and both wide residual networks."""

CIFAR_PGD_EARLY = replace(CIFAR_PGD, early_stopping=EarlyStopping(patience=6, window=10))
"""Table A.5 with early stopping: ResNet-34 and ResNet-50."""

CIFAR_RETRAINING = replace(CIFAR_STANDARD_EARLY, batch_size=256)
"""Table A.6: transfer by conventional retraining."""

CIFAR_RETRAINING_PGD = replace(CIFAR_PGD, batch_size=256, epochs=30)
"""Table A.7: transfer by adversarial retraining; tables B.6 and B.9 froze nothing (``EFFECTS``, ``kept``)."""

CIFAR_RETRAINING_PGD_RESNET34 = replace(CIFAR_RETRAINING_PGD, epochs=40)
"""Table A.7, with the 40 epochs that table B.6 shows for ResNet-34."""

ADA_VERONA = PGD(steps=40, random_start=False)
"""The published oracle: PGD-40 from the image itself, step ε ÷ 40 (section 5.4)."""

MNIST_FINAL_TEST = (
    *(PGD(epsilon=epsilon, steps=1, random_start=False) for epsilon in (0.1, 0.2, 0.3)),
    *(PGD(epsilon=epsilon, step_size=0.01, steps=40, random_start=False) for epsilon in (0.1, 0.2, 0.3)),
)
"""Final testing of section 5.2: FGSM, and PGD-40; from the image itself (``EFFECTS``, ``random_start``)."""

CIFAR_FINAL_TEST = (
    *(PGD(epsilon=levels / 255, steps=1, random_start=False) for levels in (2, 4, 8)),
    *(PGD(epsilon=levels / 255, step_size=levels / 255 / 4, steps=20, random_start=False) for levels in (2, 4, 8)),
)
"""The same for CIFAR: FGSM, and PGD-20 with a step of ε ÷ 4."""

MNIST_ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.8, step=0.005), attack=ADA_VERONA, final_test=MNIST_FINAL_TEST)
"""Table A.8, and the final testing; the published searches ended at 0.795 (``EFFECTS``, ``grid``)."""

CIFAR_ESTIMATE = Estimate(grid=EpsilonGrid(stop=28 / 256, step=0.001), attack=ADA_VERONA, final_test=CIFAR_FINAL_TEST)
"""Table A.9, and the final testing; the grid ends at 0.109, as the published one did, not at section 5.4's 0.110."""


def with_protocol(study: Study, protocol: Protocol) -> Study:
    """The study as declared (sound), or as the thesis's published code did it.

    The thesis protocol sets all of :data:`robbench.spec.PROTOCOL_FIELDS` to what :data:`robbench.spec.EFFECTS` says.
    It also trains the k whose block has no parameters.
    """
    if protocol == study.protocol:
        return study
    require(protocol == "thesis", f"study {study.name!r}", "a study declared as sound", "one that follows the thesis")
    return replace(study.with_thesis(PROTOCOL_FIELDS), name=f"{study.name}-thesis", protocol="thesis")
