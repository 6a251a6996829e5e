"""``report.md``: the values that the sentences in ``templates/`` hold."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from operator import methodcaller
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from robbench.gate.verdicts import Verdict
from robbench.record import Record
from robbench.report import markdown
from robbench.report.ablation import ablation_table, effects, median_change
from robbench.report.advice import advice, budgets, excluded, fronts, nothing
from robbench.report.answers import Answer, answers
from robbench.report.bootstrap import CONFIDENCE, interval
from robbench.report.certified import certified_answers, certified_table, exactness, one_class
from robbench.report.choice import Choice, accuracy_floor, choices
from robbench.report.classes import RIGHT, class_summaries, compared
from robbench.report.comparisons import fixed_epsilons
from robbench.report.drawing import Picture
from robbench.report.overview import best_answer, overview_table
from robbench.report.prediction import prediction_table
from robbench.report.ranking import ROBUST, ranking_epsilon, swaps
from robbench.report.remarks import (
    NO_MEASURE,
    busy,
    data_table,
    doubted,
    estimates,
    few_images,
    few_named,
    fewest_tested,
    machines,
    missing_models,
    normalisations,
)
from robbench.report.rows import FEW, Group, dataset_label, studies
from robbench.report.searches import LIMIT, pairs, searches_table
from robbench.report.seeds import models_of
from robbench.report.tables import (
    SUSPECT,
    attack_table,
    other_table,
    published_table,
    study_table,
    views_table,
    without_ranges,
)
from robbench.report.terminal import legend

Pictures = Mapping[tuple[str, ...], Sequence[Picture]]
"""The pictures of a study by (suite,), and of an architecture by (suite, architecture)."""


def report_text(
    groups: Sequence[Group],
    pictures: Pictures,
    *,
    title: str,
    command: str = "",
    notes: Sequence[str] = (),
    verdicts: Sequence[Verdict] = (),
    missing: Sequence[str] = (),
) -> str:
    """The whole of ``report.md``: a section per study, answers first."""
    rows = [row for group in groups for row in group.all_rows]
    records = [record for row in rows for record in row.records]
    groups_of = dict(studies(groups))
    names = dict.fromkeys([*groups_of, *(name.partition("/")[0] for name in missing)])
    text = (
        _environment()
        .get_template("page.md.j2")
        .render(
            title=title,
            headline=headline(verdicts, lacking_stages(records, verdicts, missing)),
            suspects=[row for row in rows if row.suspect],
            verdicts=verdict_table(verdicts),
            studies=[_study(name, groups_of.get(name, []), pictures, missing) for name in names],
            notes=list(dict.fromkeys([*notes, *(note for record in records for note in record.notes)])),
            legend=legend(verdicts),
            data=data_table(records),
            estimates=estimates(groups),
            normalisations=normalisations(records),
            machines=machines(records),
            created=sorted(record.created for record in records),
            command=command,
        )
    )
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def lacking_stages(records: Sequence[Record], verdicts: Sequence[Verdict], missing: Sequence[str]) -> int:
    """How many stages of the studies were not compared; reading a checkpoint is nothing to compare."""
    to_compare = [record for record in records if not (record.training and not record.training.epochs)]
    stages = {f"{record.suite}/{record.name}" for record in to_compare} | set(missing)
    return len(stages - {f"{verdict.suite}/{verdict.case}.{verdict.stage}" for verdict in verdicts})


def ordered(groups: Sequence[Group], found: Sequence[Choice]) -> list[Group]:
    """The architectures, that of the most robust model that may be recommended first."""

    def rank(group: Group) -> float:
        own = [each for choice in found for each in choice.candidates if each.eligible]
        return max((each.pstar for each in own if each.model.facts.architecture == group.architecture), default=-1.0)

    return sorted(groups, key=rank, reverse=True)


def headline(verdicts: Sequence[Verdict], lacking: int = 0) -> str:
    """The outcome in one line. A study of which stages were not compared (``lacking``) has not passed."""
    marks, failed = [verdict.mark for verdict in verdicts], any(verdict.fails for verdict in verdicts)
    template = _environment().get_template("headline.md.j2")
    return template.render(marks=marks, count=marks.count, failed=failed, lacking=lacking)


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["few"] = few_named
    environment.globals |= {"FEW": FEW, "ROBUST": ROBUST, "RIGHT": RIGHT, "SUSPECT": SUSPECT, "infinity": math.inf}
    environment.globals["APART"] = f"{LIMIT - 1:.0%}"
    environment.globals["NO_MEASURE"] = NO_MEASURE
    environment.globals["CONFIDENCE"] = f"{CONFIDENCE:.0%}"
    plain = ("table", "many", "percent", "points", "pstar", "radius", "seconds", "times")
    environment.filters |= {name: getattr(markdown, name) for name in plain}
    environment.filters |= {
        "md": markdown.escape,
        "number": lambda value, digits=4: f"{value:.{digits}g}",
        "median_change": partial(median_change, digits=3),
        "dataset": dataset_label,
    }
    return environment


def _study(suite: str, groups: Sequence[Group], pictures: Pictures, missing: Sequence[str]) -> dict[str, Any]:
    """What to choose, then every architecture: its answers, and model by model."""
    found = choices(groups)
    rows = [row for group in groups for row in group.rows]
    ways = {
        (dataset_label(row.facts.source or "a checkpoint"), dataset_label(row.record.data.name))
        for row in rows
        if row.line in {line for group in groups for line in group.lines}
    }
    lacking = [name.removeprefix(f"{suite}/").rpartition(".")[0] for name in missing if name.startswith(f"{suite}/")]
    return {
        "suite": suite,
        "ways": sorted(ways),
        "tested_on": sorted({dataset_label(row.record.data.name) for row in rows}),
        "missing": missing_models(missing, suite),
        "choices": [
            {
                "dataset": dataset_label(each.dataset),
                "advice": advice(each),
                "nothing": nothing(each),
                "more": [line for line in (fronts(each), budgets(each), excluded(each)) if line],
            }
            for each in found
        ],
        "architectures": [
            _architecture(group, pictures.get((suite, group.architecture), ()), lacking, found)
            for group in ordered(groups, found)
        ],
        "overview": _plain(overview_table(groups)),
        "pictures": pictures.get((suite,), ()),
        "tested": fewest_tested(groups),
        "published": any(row.published for group in groups for row in group.rows),
    }


def _plain(frame: pd.DataFrame | None) -> pd.DataFrame | None:
    """Without ranges over seeds, which the HTML and the CSV have."""
    return None if frame is None else without_ranges(frame)


def _is_transfer(case: str) -> bool:
    return re.search(r"-TL\d", case) is not None


def _asked(group: Group, answer: Answer | None, missing: Collection[str]) -> dict[str, bool]:
    """Whether a study has these models, run or ``missing``; what it has not is not spoken of."""
    if answer is None:
        prefix = group.all_rows[0].case.partition("-")[0] + "-"
        return {"transfers": any(case.startswith(prefix) and _is_transfer(case) for case in missing)}
    case, row = re.compile(r"(-seed\d+)?$"), answer.models[0].rows[0]
    names = {case.sub("", name) for name in missing}
    target = row.case.rpartition(f"-TL{row.facts.k}")[0]
    source = case.sub("", row.facts.source_case or "")
    return {
        "transfers": True,
        "source": answer.source is not None or source in names,
        "standard": answer.standard is not None or f"{target}-standard" in names,
        "scratch": answer.scratch is not None or f"{target}-pgd" in names,
    }


def _alone(group: Group) -> list[dict[str, Any]]:
    """Models of a study without transfers, each with its figures."""
    found = []
    for model in models_of(group.rows):
        if model.right:
            radii = fixed_epsilons(model.right[0].record.result.grid)
            robust = {radius: model.spread(methodcaller("robust", radius)) for radius in radii}
            found.append({"model": model, "interval": interval(model.resampled_medians), "robust": robust})
    return found


def _architecture(
    group: Group, pictures: Sequence[Picture], missing: Collection[str], chosen: Sequence[Choice]
) -> dict[str, Any]:
    """What is said, tabled and drawn of one architecture."""
    found = answers(group)
    answer = best_answer(found)
    tested = [row for row in group.all_rows if row.robustness]
    fields = [(field, [*own]) for field, own in groupby(effects(group), key=lambda effect: effect.field)]
    return {
        "name": group.architecture,
        "suite": group.suite,
        "answer": answer,
        "transferred": len([model for each in found for model in each.models if model.tested]),
        "floor": accuracy_floor(group, found[0].models[0].facts.dataset) if found else 0.0,
        "asked": _asked(group, answer, missing),
        "alone": [] if answer else _alone(group),
        "seeds": len(group.seeds),
        "several": len(group.seeds) > 1,
        "few": few_images(group),
        "busy": busy(group),
        "apart": [pair for pair in pairs(group) if pair.differs],
        "searches": _plain(searches_table(group)),
        "pictures": {picture.kind: picture for picture in pictures},
        "table": without_ranges(study_table(group)) if group.rows else None,
        "published_table": _plain(published_table(group)),
        "tested": tested,
        "audits": [row.robustness.audit for row in tested if row.robustness and row.robustness.audit],
        "suspects": list(dict.fromkeys(row.name for row in tested if row.suspect)),
        "doubted": doubted(group),
        "views": _plain(views_table(group)),
        "classes": class_summaries(compared(group, answer, chosen)),
        "swaps": swaps(group),
        "grid_end": max((row.robustness.grid[-1] for row in tested if row.robustness), default=0.0),
        "epsilon": ranking_epsilon(group),
        "final": _plain(attack_table(group)),
        "others": other_table(group),
        "predicted": prediction_table(group),
        "certified": certified_table(group),
        "certified_answers": certified_answers(group),
        "one_class": one_class(group),
        "verified": exactness(group),
        "fields": {field: [effect for effect in own if effect.moved] for field, own in fields},
        "ablation": {field: ablation_table(own) for field, own in fields},
    }


def verdict_table(verdicts: Sequence[Verdict]) -> pd.DataFrame | None:
    """What is not as before, the failures first; verdicts of one wording share a line. None where all is as before."""
    lines: dict[tuple[str, str, str, str], list[str]] = {}
    worth = [verdict for verdict in verdicts if verdict.mark not in ("=", "new", "quick")]
    for verdict in sorted(worth, key=lambda each: (not each.fails, each.mark != "-", each.mark)):
        key = verdict.mark, verdict.stage, verdict.figure, verdict.message
        lines.setdefault(key, []).append(f"{verdict.suite}/{verdict.case}")
    rows = [
        [f"`{mark}`", ", ".join(cases[:2]) + f" and {len(cases) - 2} more" * (len(cases) > 2), stage, figure, message]
        for (mark, stage, figure, message), cases in lines.items()
    ]
    frame = pd.DataFrame(rows, columns=["", "Case", "Stage", "Figure", "What happened"])
    frame.iloc[:, 1:] = frame.iloc[:, 1:].map(markdown.escape)
    return frame if rows else None
