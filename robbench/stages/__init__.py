"""One stage of a study, resumable, and the graph of stages with its executors. No torch until a stage runs."""

from robbench.stages.graph import InProcess, run_graph, run_stage, task_of, tasks_of
from robbench.stages.kinds import KINDS, StageKind
from robbench.stages.task import Task

__all__ = ["KINDS", "InProcess", "StageKind", "Task", "run_graph", "run_stage", "task_of", "tasks_of"]
