"""``report.html``: the whole report in one file that asks no network for anything."""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup, escape

from robbench.gate.verdicts import MARKS, Verdict
from robbench.record import Example
from robbench.report import advice, markdown, remarks
from robbench.report.ablation import ablation_table, effects
from robbench.report.answers import Answer, answers
from robbench.report.bootstrap import CONFIDENCE
from robbench.report.certified import as_certified, certified_table
from robbench.report.charts import (
    curve_legend,
    distributions,
    factors_by_k,
    histories,
    kind_legend,
    medians_by_k,
    robust_curves,
    seconds_chart,
    tradeoff,
)
from robbench.report.choice import Candidate, Choice, choices
from robbench.report.classes import RIGHT, Cell, balanced, by_dataset, classes_of
from robbench.report.comparisons import Ratio
from robbench.report.overview import best_answer, factors, overview_table
from robbench.report.page import headline, lacking_stages, ordered, verdict_table
from robbench.report.prediction import prediction_table
from robbench.report.rows import Group, Row, dataset_label, studies
from robbench.report.searches import searches_table
from robbench.report.seeds import Model, models_of
from robbench.report.tables import (
    attack_table,
    other_table,
    published_table,
    study_table,
    views_table,
)

FOLDER = Path(__file__).parent / "templates"

EXAMPLES = 1_500_000
"""Bytes of example images in a page; those of further architectures stay in the records."""


def report_html(
    groups: Sequence[Group],
    *,
    title: str,
    command: str = "",
    notes: Sequence[str] = (),
    verdicts: Sequence[Verdict] = (),
    missing: Sequence[str] = (),
) -> str:
    """The whole of ``report.html``: what to choose first, then tables and pictures, then where it was made."""
    records = [record for group in groups for row in group.all_rows for record in row.records]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            title=title,
            headline=headline(verdicts, lacking_stages(records, verdicts, missing)),
            suspects=[row.name for group in groups for row in group.all_rows if row.suspect],
            failed=any(verdict.fails for verdict in verdicts),
            verdicts=verdict_table(verdicts),
            marks=MARKS if verdicts else {},
            studies=[_study(suite, found, missing) for suite, found in studies(groups)],
            notes=list(dict.fromkeys([*notes, *(note for record in records for note in record.notes)])),
            data=remarks.data_table(records),
            estimates=remarks.estimates(groups),
            normalisations=remarks.normalisations(records),
            environment=remarks.environment_table(records) if records else None,
            created=sorted(record.created for record in records),
            command=command,
            style=Markup((FOLDER / "report.css").read_text(encoding="utf-8")),
            script=Markup((FOLDER / "report.js").read_text(encoding="utf-8")),
        )
    )


@cache
def environment() -> jinja2.Environment:
    """The templates of pages, which escape what they show."""
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=True,
    )
    templates.filters |= {"table": _table, "many": markdown.many, "data_uri": _data_uri, "dataset": dataset_label}
    templates.filters |= {"few": remarks.few_named}
    templates.filters |= {"pstar": lambda value: f"{value:.4g}"}
    templates.globals |= {"CONFIDENCE": f"{CONFIDENCE:.0%}", "RIGHT": RIGHT}
    return templates


def _study(suite: str, groups: Sequence[Group], missing: Sequence[str]) -> dict[str, Any]:
    found = choices(groups)
    groups = ordered(groups, found)
    sizes = [sum(len(each.png) for _, row in _shown(group) for each in _examples(row)) for group in groups]
    return {
        "suite": suite,
        "missing": remarks.missing_models(missing, suite),
        "choices": [_choice(each) for each in found],
        "cards": _cards(groups, found),
        "overview": overview_table(groups),
        "architectures": [
            {**_architecture(group), "examples": _described(group) if reached <= EXAMPLES else []}
            for group, reached in zip(groups, accumulate(sizes), strict=True)
        ],
    }


def _choice(choice: Choice) -> dict[str, Any]:
    """The recommendations, their picture, and every candidate for the table that answers “the best under …”."""
    return {
        "dataset": dataset_label(choice.dataset),
        "advice": [(each, advice.criterion(each.purpose, choice)) for each in advice.advice(choice)],
        "nothing": advice.nothing(choice),
        "more": [line for line in (advice.budgets(choice), advice.excluded(choice)) if line],
        "floor": advice.floor_text(choice),
        "picture": Markup(tradeoff(choice)),
        "legend": kind_legend(each.model for each in choice.candidates if each.model.right),
        "front": [each.name for each in choice.on_front],
        "area": f"{choice.area:.3f} ({choice.area_interval[0]:.3f} to {choice.area_interval[1]:.3f})",
        "epsilon": markdown.radius(choice.epsilon),
        "candidates": [
            _candidate(each, choice)
            for each in sorted(choice.candidates, key=lambda each: (each.eligible, each.pstar), reverse=True)
        ],
    }


def _candidate(candidate: Candidate, choice: Choice) -> dict[str, Any]:
    end = candidate.model.grid_end
    return {
        "name": candidate.name,
        "eligible": candidate.eligible,
        "front": candidate in choice.on_front_with_cost,
        "purposes": [each.purpose for each in choice.recommendations if each.best is candidate],
        "accuracy": candidate.accuracy,
        "pstar": candidate.pstar,
        "seconds": candidate.seconds,
        "cells": [
            markdown.percent(candidate.accuracy),
            markdown.pstar(candidate.model.median, end),
            advice.pstar_interval(candidate) if candidate.model.right else markdown.NOTHING,
            markdown.percent(candidate.expected),
            markdown.seconds(candidate.seconds),
        ],
    }


def _cards(groups: Sequence[Group], found: Sequence[Choice]) -> list[dict[str, str]]:
    """At most four large figures: what is recommended on each data set, and the three answers."""
    on = {each.dataset: f" on {dataset_label(each.dataset)}" if len(found) > 1 else "" for each in found}
    cards = []
    for choice in found:
        recommended = choice.recommended("best balance")
        eligible = [each for each in choice.candidates if each.eligible]
        best = recommended.best if recommended else eligible[0] if eligible else None
        if best is not None:
            accuracy = f"at {markdown.percent(best.accuracy)} clean accuracy"
            named = {"figure": best.name, "interval": f"median p* {advice.pstar_text(best)}"}
            alone = {
                "figure": markdown.pstar(best.model.median, best.model.grid_end),
                "interval": advice.pstar_interval(best),
            }
            cards.append(
                {"what": f"recommended{on[choice.dataset]}", **named, "of": f"{accuracy}: the best balance"}
                if recommended
                else {"what": f"median p*{on[choice.dataset]}", **alone, "of": f"{accuracy}: {best.name}"}
            )
    answered = [(group, answer) for group in groups if (answer := best_answer(answers(group))) and answer.best]
    if not answered:
        return cards[:4]
    group, answer = answered[0]
    return [*cards[:1], *_answer_cards(answer, group, f"{group.architecture} " if len(groups) > 1 else "")]


def _answer_cards(answer: Answer, group: Group, architecture: str) -> Iterable[dict[str, str]]:
    assert answer.best is not None
    name = architecture + answer.best.label
    for what, ratio, of in (
        (f"1. robustness kept by {name}", answer.retention, "of the source's median p*"),
        (
            f"2. {name} against training from scratch",
            answer.relative,
            "of the median p* of adversarial training on the target",
        ),
    ):
        if ratio is not None:
            yield {"what": what, "figure": _amount(ratio), "interval": _interval(ratio), "of": of}
    if answer.speed_up is not None:
        found, with_source = answer.speed_up, answer.speed_up_with_source
        several = f"seeds: × {found.low:.3g} to × {found.high:.3g}" if found.count > 1 else "one seed: no interval"
        busy = remarks.busy(group).get("training", {})
        slowed = any(model and model.label in busy for model in (answer.best, answer.scratch))
        of = f"faster than adversarial training from scratch{remarks.NO_MEASURE * slowed}"
        if with_source:
            of += f"; × {with_source.value:.3g} with the source's training"
            of += remarks.NO_MEASURE * bool(not slowed and answer.source and answer.source.label in busy)
        figure = factors(found).partition(" [")[0]
        yield {"what": f"3. time of {name}", "figure": figure, "interval": several, "of": of}


def _amount(ratio: Ratio) -> str:
    return f"{'' if ratio.relation == '=' else ratio.relation + ' '}{markdown.percent(ratio.value)}"


def _interval(ratio: Ratio) -> str:
    if math.isinf(ratio.high):
        return f"from {markdown.percent(ratio.low)}"
    return f"{markdown.percent(ratio.low)} to {markdown.percent(ratio.high)}"


def _architecture(group: Group) -> dict[str, Any]:
    """Tables, pictures and example images of one architecture."""
    pictures = {
        "Median p* against the source and against training from scratch": medians_by_k(group),
        "Times faster than adversarial training from scratch": factors_by_k(group),
        "p* of the correct images: 12.5th, 25th, 50th, 75th and 87.5th percentile": distributions(group),
        "Robust accuracy by radius": robust_curves(group),
        "Certified accuracy by radius": robust_curves(
            as_certified(group), "right and certified, of all bounded images"
        ),
        "Training seconds": seconds_chart(group),
    }
    tables = {
        "Models": study_table(group) if group.rows else None,
        "The drop point (the k after which median p* falls most), predicted and found": prediction_table(group),
        "Robust accuracy, and the images that all models are right on": views_table(group),
        "Certified radii: no image nearer has another class": certified_table(group),
        "The final test: robust accuracy under attacks of fixed radius": attack_table(group),
        "Beside the published figures": published_table(group, differences=True),
        "Median p* by two searches": searches_table(group),
        "Figures of other stages": other_table(group),
    }
    varied: dict[str, list[Any]] = {}
    for effect in effects(group):
        varied.setdefault(effect.field, []).append(effect)
    tables |= {f"What {field} changes": ablation_table(found) for field, found in varied.items()}
    return {
        "name": group.architecture,
        "pictures": {name: Markup(svg) for name, svg in pictures.items() if svg},
        "legends": {
            **dict.fromkeys(list(pictures)[:2], kind_legend(answer.models[0] for answer in answers(group))),
            "Robust accuracy by radius": curve_legend(group),
            "Certified accuracy by radius": curve_legend(as_certified(group)),
        },
        "classes": [_classes(name, models) for name, models in by_dataset(models_of(group.rows)).items()],
        "tables": {name: frame for name, frame in tables.items() if frame is not None},
        "histories": [(name, Markup(svg)) for name, svg in histories(group)],
        "few": remarks.few_images(group),
        "busy": remarks.busy(group),
        "doubted": remarks.doubted(group),
        "suspects": [(row.name, row.robustness.audit.warnings) for row in group.all_rows if row.suspect],  # type: ignore[union-attr]
    }


def _classes(dataset: str, models: Sequence[Model]) -> dict[str, Any]:
    """Every class of a data set in every model, each cell with a depth of colour from 0 to 100."""
    found = [classes_of(model) for model in models]
    known = [min(cell.median, cell.grid_end) for classes in found for cell in classes.values() if cell.median]
    most = max(known, default=1.0)

    def shown(cell: Cell) -> dict[str, Any]:
        pale = cell.right < RIGHT
        depth = 0 if pale else round(100 * min(cell.median or 0.0, cell.grid_end) / most)
        return {
            "median": markdown.pstar(cell.median, cell.grid_end),
            "share": markdown.percent(cell.share, 0),
            "pale": pale,
            "depth": depth,
        }

    return {
        "dataset": dataset_label(dataset),
        "models": [(model.label, balanced(model)) for model in models],
        "rows": [(name, [shown(classes[name]) for classes in found]) for name in found[0]],
    }


def _shown(group: Group) -> list[tuple[str, Row]]:
    """The models whose images are shown, in their first seed: source, best transfer, conventional; else all."""
    answer = best_answer(answers(group))
    if answer is None or answer.best is None:
        return [("", row) for row in group.rows if _examples(row)][:3]
    named = {"source": answer.source, "best transfer": answer.best, "conventional": answer.standard}
    return [(what, model.rows[0]) for what, model in named.items() if model and _examples(model.rows[0])]


def _examples(row: Row) -> Sequence[Example]:
    return row.robustness.examples if row.robustness else ()


def _described(group: Group) -> list[tuple[str, str, Sequence[Example]]]:
    return [(what, row.label, _examples(row)) for what, row in _shown(group)]


def _table(frame: pd.DataFrame) -> Markup:
    """A table that can be sorted and filtered; its cells are Markdown."""
    head = Markup("").join(Markup("<th>{}</th>").format(_plain(name)) for name in frame.columns)
    body = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td>{}</td>").format(_cell(cell)) for cell in row))
        for row in frame.to_numpy()
    )
    return Markup('<div class="scroll"><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table></div>').format(
        head, body
    )


def _plain(text: object) -> str:
    """Markdown's text without its escapes and marks."""
    return re.sub(r"\\(.)", r"\1", re.sub(r"(?<!\\)[*`]", "", str(text)))


def _cell(text: object) -> Markup:
    """A cell, the range over seeds below its figure."""
    value, bracket, rest = _plain(text).partition(" [")
    return escape(value) + Markup("<small>{}</small>").format(bracket.strip() + rest) if bracket else escape(value)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"
