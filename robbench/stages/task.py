"""A stage as a task: what is to be done, and what must be done before. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from robbench.spec import ESTIMATION_VERSION, TRAINING_VERSION, Model, code_of, describe, digest_of
from robbench.stages.kinds import KINDS


@dataclass(frozen=True)
class Task:
    """One stage of one model. Tasks can be compared, hashed and pickled."""

    kind: str
    """A key of :data:`robbench.stages.kinds.KINDS`."""
    model: Model
    spec: Any = None
    """What the stage is asked beyond its model: an Estimate for p*, nothing for training."""

    label: str = ""
    """Tells a model's stages of one kind apart; changes no result."""

    @property
    def stage(self) -> str:
        """Its name in records and baselines: ``robustness``, ``robustness-reference``."""
        return f"{self.kind}-{self.label}" if self.label else self.kind

    @property
    def name(self) -> str:
        """``case.stage``: unique within a study."""
        return f"{self.model.id}.{self.stage}"

    @property
    def needs(self) -> dict[str, Task]:
        """The tasks that must be finished before this one, by their role."""
        return {role: Task(*need) for role, need in KINDS[self.kind].needs(self.model, self.spec).items()}

    @property
    def described(self) -> dict[str, Any]:
        """The task's specification as plain values, as records and baselines hold it."""
        model: dict[str, Any] = describe(self.model)
        return model if self.spec is None else {"model": model, KINDS[self.kind].spec_name: describe(self.spec)}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the specification, and of the code behind it that is not robbench's."""
        code = code_of(self.spec, KINDS[self.kind].run)
        named = {"kind": self.kind, "model": self.model.digest, **({"code": code} if code else {})}
        if self.spec is None:
            return digest_of({**named, "version": TRAINING_VERSION})
        test = self.model.dataset.test
        sample = {"sample": self.model.seed} if self.model.seed else {}  # the seed that test images are drawn by, too
        return digest_of({**named, "version": ESTIMATION_VERSION, "test": test, "spec": describe(self.spec), **sample})
