"""The ways of retraining that every suite of methods compares, as rows of a study."""

from dataclasses import replace

from robbench import LwF, Model, Objective, Recipe, Transfers


def by_objective(recipe: Recipe, objective: Objective, k: int, teacher: Model | None = None) -> Transfers:
    """The last ``k`` blocks retrained by an objective."""
    return Transfers(recipe=replace(recipe, objective=objective), k=(k,), teacher=teacher)


def conventional(recipe: Recipe, k: int) -> tuple[Transfers, ...]:
    """Without an attack: a new head with fine-tuning (linear or MLP, with and without LwF); the last ``k`` blocks with the
    others frozen or warm; a new head with the least critical block (RiFT), or with low-rank branches (LoRA).
    """
    return (
        *(
            Transfers(recipe=replace(recipe, **objective), k=(1,), kept="finetuned", kept_scale=0.1, head=head)
            for objective in ({}, {"objective": LwF()})
            for head in ("linear", "mlp1")
        ),
        Transfers(recipe=recipe, k=(k,)),
        Transfers(recipe=recipe, k=(k,), kept="warm"),
        Transfers(recipe=recipe, k=(1,), kept="critical", kept_scale=0.1),
        Transfers(recipe=recipe, k=(1,), kept="lora"),
    )
