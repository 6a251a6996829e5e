"""Small specs for tests, and a study whose fields the caller may change."""

from dataclasses import replace

from robbench.spec import (
    PGD,
    Dataset,
    EpsilonGrid,
    Estimate,
    Model,
    Recipe,
    Study,
    Transfer,
    Transfers,
)

RECIPE = Recipe(
    optimiser="sgd",
    learning_rate=0.1,
    weight_decay=0.0,
    batch_size=8,
    epochs=3,
    attack=PGD(epsilon=0.2, step_size=0.1, steps=4),
)
STANDARD = replace(RECIPE, attack=None)
ESTIMATE = Estimate(grid=EpsilonGrid(stop=0.2, step=0.1), attack=PGD(steps=2, random_start=False), search="reference")
FINAL_TEST = (
    PGD(epsilon=0.1, steps=1, random_start=False),
    PGD(epsilon=0.1, steps=40, step_size=0.01, random_start=False),
)
MNIST = Dataset(name="mnist")
SOURCE = Model(architecture="cnn7", dataset=MNIST, recipe=RECIPE)
TARGET = Model(
    architecture="cnn7", dataset=Dataset(name="emnist"), recipe=RECIPE, transfer=Transfer(k=3), source=SOURCE
)


def make_study(**changes):
    """A small cnn7 study from MNIST to EMNIST."""
    values = {
        "name": "demo",
        "source": "mnist",
        "target": "emnist",
        "architectures": ("cnn7",),
        "standard": STANDARD,
        "adversarial": RECIPE,
        "transfers": (Transfers(recipe=STANDARD),),
        "estimate": ESTIMATE,
    }
    return Study(**(values | changes))


def recipe(**changes):
    """A valid recipe but for the changes."""
    return replace(RECIPE, **changes)
