"""How a network is trained: the loop, its updates, objectives, schedules, optimisers, transfer."""

from robbench.training import certified, distillation, lwf, trades, twins  # noqa: F401 - they register their losses
from robbench.training.loop import Trainer, TrainingData, train
from robbench.training.objectives import Adversary, Batch, Loss, loss_function

__all__ = ["Adversary", "Batch", "Loss", "Trainer", "TrainingData", "loss_function", "train"]
