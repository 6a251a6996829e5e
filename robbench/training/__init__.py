"""How a network is trained: the loop, its updates, objectives, schedules, optimisers, transfer."""

from robbench.training.loop import Trainer, TrainingData, train
from robbench.training.objectives import Loss, loss_function

__all__ = ["Loss", "Trainer", "TrainingData", "loss_function", "train"]
