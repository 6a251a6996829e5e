"""Models as a report shows them: the training and the robustness record of a case side by side, named and ordered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby

from robbench.record import MISCLASSIFIED, LowerBounds, ModelFacts, Record, Robustness, Training, grid_index
from robbench.report import bootstrap
from robbench.report.bootstrap import Resamples
from robbench.report.published import Published, published_row
from robbench.spec.catalogue import ARCHITECTURES

_DATASETS = {"mnist": "MNIST", "emnist": "EMNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
_METHODS = ("standard", "pgd", "checkpoint", "transfer", "transfer-adversarial")
_SCRATCH = {"standard": "Standard", "pgd": "PGD", "checkpoint": "Checkpoint"}
_KEPT = {
    "frozen": "",
    "finetuned": ", kept blocks fine-tuned",
    "warm": ", whole network",
    "critical": ", RiFT",
    "lora": ", LoRA",
}
CONVENTIONAL = "conventional retraining"
ON_SOURCE = ", on the source's data"

FEW = 30
"""Correct images below which a median is called out, no finding rests on it, and no model is recommended."""


def _objective(name: str) -> str:
    """An objective's name for people: ``TRADES``."""
    return {"lwf": "LwF", "dicepgd": "Dice-PGD"}.get(name, name.upper())


def dataset_label(name: str) -> str:
    """A dataset's name for people; names robbench does not know stay as they are."""
    return _DATASETS.get(name, name)


@dataclass(frozen=True)
class Row:
    """One model of a study: any record may be missing, but not all."""

    suite: str
    case: str
    facts: ModelFacts
    trained: Record | None
    tested: Record | None
    also: tuple[Record, ...] = ()
    """Estimates of p* by other searches than the study's own."""
    others: tuple[Record, ...] = ()
    """Of kinds of stages that a project added."""

    @property
    def training(self) -> Training | None:
        """How it was trained."""
        return self.trained.training if self.trained else None

    @property
    def robustness(self) -> Robustness | None:
        """Its robustness distribution."""
        return self.tested.robustness if self.tested else None

    @property
    def suspect(self) -> bool:
        """Whether the audit of its p* has a warning."""
        return bool(self.robustness and self.robustness.audit and self.robustness.audit.warnings)

    @property
    def name(self) -> str:
        """Its label, and its variant in parentheses."""
        return f"{self.label} ({self.facts.variant})" if self.facts.variant else self.label

    @property
    def record(self) -> Record:
        """The robustness record, else the training record, else another."""
        return self.tested or self.trained or (*self.also, *self.others)[0]

    @property
    def records(self) -> tuple[Record, ...]:
        """All there are."""
        return tuple(record for record in (self.trained, self.tested, *self.also, *self.others) if record)

    @property
    def other_figures(self) -> dict[str, float | int | bool | None]:
        """The figures of the stages of other kinds, as ``kind: figure``."""
        others = [record for record in self.others if record is not self.bounded]
        return {f"{record.stage}: {name}": value for record in others for name, value in record.figures.items()}

    @property
    def bounded(self) -> Record | None:
        """The record of its certified bounds."""
        return next((record for record in self.others if record.bounds), None)

    @property
    def bounds(self) -> LowerBounds | None:
        """Its certified bounds."""
        return self.bounded.bounds if self.bounded else None

    @property
    def drift(self) -> float | None:
        """How far the features that it keeps move under attack, before it is retrained."""
        return next((record.drift.drift for record in self.others if record.drift), None)

    @property
    def on_source(self) -> bool:
        """Whether it was transferred to the data that its source was trained on."""
        return self.facts.k is not None and self.facts.dataset == self.facts.source

    @property
    def median(self) -> float | None:
        """Median p*: inf when censored, None without a correct image or an estimate."""
        return self.robustness.median if self.robustness else None

    @property
    def accuracy(self) -> float | None:
        """Clean accuracy on the test images; None without an estimate."""
        clean = self.robustness.clean if self.robustness else None
        return clean.share if clean and clean.total else None

    @property
    def balanced_accuracy(self) -> float | None:
        """Mean of the classes' clean accuracies; None without an estimate of each."""
        return self.robustness.balanced_accuracy if self.robustness else None

    @property
    def correct(self) -> int | None:
        """Test images classified correctly."""
        return self.robustness.clean.correct if self.robustness else None

    @property
    def censored_share(self) -> float | None:
        """Share of the correct images that were never fooled inside the grid."""
        return self.robustness.censored / self.correct if self.robustness and self.correct else None

    @property
    def grid_step(self) -> float:
        """What two p* differ by at least; 0 without an estimate."""
        grid = self.robustness.grid if self.robustness else []
        return grid[1] - grid[0] if len(grid) > 1 else 0.0

    def robust(self, epsilon: float | None) -> float | None:
        """Robust accuracy at the first grid radius from ``epsilon`` on; None without an estimate or past the grid."""
        found = self.robustness
        if found is None or epsilon is None or epsilon > found.grid[-1] + 1e-9:
            return None
        return found.robust(epsilon).share

    @cached_property
    def images_drawn(self) -> int:
        """A number that tells the test images of one draw from those of another."""
        return hash(tuple(self.record.result.images))

    @cached_property
    def resampled_medians(self) -> Resamples:
        """Median p* of every resampling of the test images."""
        return bootstrap.medians(self.facts.dataset, self.record.result)

    @cached_property
    def resampled_accuracy(self) -> Resamples:
        """Clean accuracy of every resampling of the test images."""
        return self.resampled_shares()

    def resampled_shares(self, epsilon: float | None = None) -> Resamples:
        """Clean accuracy, or robust accuracy at ``epsilon``, of every resampling of the test images."""
        above = MISCLASSIFIED if epsilon is None else grid_index(self.record.result.grid, epsilon)
        return bootstrap.shares(self.facts.dataset, self.record.result, above)

    @property
    def seconds(self) -> float | None:
        """Measured training seconds; None where there are none, as for a checkpoint."""
        return (self.trained.seconds.measured or None) if self.trained else None

    @property
    def total_seconds(self) -> float | None:
        """Training with validation, warm-up and I/O: what the published seconds span."""
        return (self.trained.seconds.total or None) if self.trained and self.seconds else None

    @property
    def line(self) -> str | None:
        """The kind of transfer, all its k together; None of a model that was not transferred."""
        if self.facts.k is None:
            return None
        name = "adversarial retraining" if self.facts.method == "transfer-adversarial" else CONVENTIONAL
        return name + self._particulars

    @property
    def _particulars(self) -> str:
        head = f", {self.facts.head.upper()} head" if self.facts.head != "linear" else ""
        kept = _KEPT[self.facts.kept or "frozen"]
        objective = f", {_objective(self.facts.objective)}" if self.facts.objective else ""
        return head + kept + objective + self._from + (ON_SOURCE if self.on_source else "")

    @property
    def _from(self) -> str:
        """Which source, where it was not adversarially trained."""
        method = self.facts.source_method
        if method in (None, "pgd", "checkpoint"):
            return ""
        return (
            ", from a standard source"
            if method == "standard"
            else f", from {'an' if method == 'ibp' else 'a'} {method.upper()} source"
        )

    @property
    def label(self) -> str:
        """The model's name in tables, without its seed: ``PGD EMNIST``, ``TL#3 adversarial``."""
        if self.facts.k is None:
            method = _SCRATCH.get(self.facts.method) or _objective(self.facts.method)
            return f"{method} {dataset_label(self.record.data.name)}"
        adversarial = " adversarial" if self.facts.method == "transfer-adversarial" else ""
        return f"TL#{self.facts.k}{adversarial}{self._particulars}"

    @property
    def mark(self) -> str:
        """What a picture writes beside a transfer: k, and the objective, as all of them share a colour."""
        return f"{self.facts.k} {_objective(self.facts.objective)}" if self.facts.objective else f"{self.facts.k}"

    @property
    def published(self) -> Published | None:
        """The published row to compare with; none at quick scale, or where other data took the dataset's place."""
        if self.suite.endswith("-quick") or self.record.data.name != self.facts.dataset:
            return None
        return published_row(self.facts)


@dataclass(frozen=True)
class Group:
    """The models of one architecture in one suite, in the order of the thesis's tables."""

    suite: str
    architecture: str
    rows: tuple[Row, ...]
    variants: tuple[Row, ...] = ()
    """The models of an ablation: each follows the thesis in one field, and stands in no table but the ablation's."""
    accuracy_floor: float | None = None
    """The study's own: nothing less accurate is recommended; None: half of the conventional model's accuracy."""

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seeds there are, ascending."""
        return tuple(sorted({row.facts.seed for row in self.rows}))

    @property
    def lines(self) -> tuple[str, ...]:
        """The kinds of transfer there are, in order; those on the source's data only where there are no others."""
        rows = [row for row in self.rows if row.line]
        rows = [row for row in rows if not row.on_source] or rows
        return tuple(dict.fromkeys(row.line for row in rows if row.line))

    @property
    def all_rows(self) -> tuple[Row, ...]:
        """Every model, the ablation's last."""
        return (*self.rows, *self.variants)

    def of(self, line: str | None) -> tuple[Row, ...]:
        """The models of one kind of transfer in order of k, or those not transferred."""
        return tuple(row for row in self.rows if row.line == line)


def studies(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Groups by their suite, in order."""
    return [(suite, [*found]) for suite, found in groupby(groups, key=lambda group: group.suite)]


def group_records(records: Iterable[Record], floors: Mapping[str, float] | None = None) -> tuple[Group, ...]:
    """Records by suite and architecture, the stages of a case joined; ``floors`` are the accuracy floors by suite."""
    stages: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        stages.setdefault((record.suite, record.case), {})[record.stage] = record
    groups: dict[tuple[str, str], list[Row]] = {}
    for (suite, case), stage in stages.items():
        facts = next(iter(stage.values())).model
        trained, tested = stage.pop("training", None), stage.pop("robustness", None)
        also = tuple(record for record in stage.values() if record.robustness)
        others = tuple(record for record in stage.values() if not record.robustness)
        row = Row(suite, case, facts, trained, tested, also, others)
        groups.setdefault((suite, facts.architecture), []).append(row)
    names = sorted(groups, key=lambda key: (key[0], [*ARCHITECTURES, key[1]].index(key[1]), key[1]))
    return tuple(_group(*name, groups[name], (floors or {}).get(name[0])) for name in names)


def _group(suite: str, architecture: str, rows: Sequence[Row], floor: float | None) -> Group:
    sources = {row.facts.source for row in rows}

    def key(row: Row) -> tuple[object, ...]:
        facts = row.facts
        method = [*_METHODS, facts.method].index(facts.method)
        kept = [*_KEPT].index(facts.kept or "frozen")
        particulars = (
            facts.objective or "",
            facts.source_method not in (None, "pgd", "checkpoint"),
            facts.source_method or "",
            kept,
            facts.head != "linear",
            facts.head,
        )
        where = (facts.dataset not in sources, facts.dataset)
        return (
            facts.k is not None,
            method,
            *particulars,
            *where,
            facts.k or 0,
            facts.variant or "",
            facts.seed,
            row.case,
        )

    ordered = sorted(rows, key=key)
    plain = tuple(row for row in ordered if row.facts.variant is None)
    return Group(suite, architecture, plain, tuple(row for row in ordered if row.facts.variant), floor)
