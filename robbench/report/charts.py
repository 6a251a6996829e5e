"""Which dots, lines and boxes the pictures of ``report.html`` hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from robbench.record import MISCLASSIFIED
from robbench.report import advice, markdown, svg
from robbench.report.answers import answers
from robbench.report.bootstrap import interval
from robbench.report.boxes_and_curves import axis_end, percentiles
from robbench.report.choice import Choice
from robbench.report.comparisons import Ratio, median_ratio, speed_up
from robbench.report.drawing import colour, is_source, of_k
from robbench.report.rows import Group, Row
from robbench.report.seeds import Model, models_of, source_model

RADIUS = "radius ε (L∞, pixels in [0, 1])"


def tradeoff(choice: Choice) -> str:
    """Median p* over clean accuracy of every candidate, with intervals; the front is a dashed line."""
    shown = [each for each in choice.candidates if each.model.right]
    if not shown:
        return ""
    recommended = {each.best.name: each.purpose for each in choice.recommendations[::-1]}
    ends = {each.name: interval(each.medians) for each in shown}
    top = 1.1 * max(min(ends[each.name][1], each.model.grid_end) for each in shown)
    marks = []
    for each in shown:
        purposes = [found.purpose for found in choice.recommendations if found.best is each]
        seconds = f", trained in {markdown.seconds(each.seconds)} s" if each.seconds else ""
        said = f"{each.name}: median p* {advice.pstar_text(each)}, clean accuracy {markdown.percent(each.accuracy)}"
        said += seconds + (f": {', '.join(purposes)}" if purposes else "")
        said += "" if each.eligible else ": below the accuracy floor, or on too few correct images"
        marks.append(
            svg.Mark(
                x=each.accuracy,
                y=each.pstar,
                title=said,
                colour=colour(each.model.rows[0]),
                label=each.name if each.name in recommended else str(each.model.facts.k or ""),
                bold=each.name in recommended,
                hollow=not each.eligible,
                x_ends=interval(each.accuracies),
                y_ends=ends[each.name],
            )
        )
    accuracies = [each.accuracy for each in shown]
    low, high = max(0.0, min(accuracies) - 0.08), min(1.0, max(accuracies) + 0.08)
    steps = [(low, choice.on_front[-1].pstar)] if choice.on_front else []
    for each in reversed(choice.on_front):
        steps += [(steps[-1][0], each.pstar), (each.accuracy, each.pstar)]
    steps += [(steps[-1][0], 0.0)] if steps else []
    front = [svg.Line(points=steps, title="no model lies above and to the right", colour="#888888", dashes="4 3")]
    x = svg.Axis(low=low, high=high, label="clean accuracy", percent=True)
    y = svg.Axis(low=0.0, high=top, label="median p* (L∞, pixels in [0, 1])")
    return svg.plot("median p* over clean accuracy", x, y, marks, front if steps else (), height=340)


def medians_by_k(group: Group) -> str:
    """Retention and relative robustness over k, with their intervals: filled against the source, hollow against scratch."""
    marks, lines, ks = [], [], set()
    for answer in answers(group):
        ink = colour(answer.models[0].rows[0])
        sides: list[tuple[str, bool, Callable[[Model], Ratio | None]]] = [
            ("of its source", False, lambda model: median_ratio(model, source_model(group, model))),
            ("of training from scratch", True, lambda model, to=answer.scratch: median_ratio(model, to)),  # type: ignore[misc]
        ]
        for of, hollow, ratio in sides:
            found = [(model, each) for model in answer.models if (each := ratio(model)) is not None]
            ks |= {model.facts.k or 0 for model, _ in found}
            points = [(float(model.facts.k or 0), each.value) for model, each in found]
            if len(points) > 1:
                what = f"{answer.line}: median p* ÷ that {of}"
                lines.append(svg.Line(points=points, title=what, colour=ink, dashes="5 4" if hollow else ""))
            for (k, value), (model, each) in zip(points, found, strict=True):
                relation = "" if each.relation == "=" else f"{each.relation} "
                text = f"{model.label}: {relation}{value:.1%} of the median p* {of} ({each.low:.1%} to {each.high:.1%})"
                high = min(each.high, 1.5 * value)
                marks.append(svg.Mark(x=k, y=value, title=text, colour=ink, hollow=hollow, y_ends=(each.low, high)))
    if not marks:
        return ""
    top = 1.05 * max(1.0, *(mark.y_ends[1] for mark in marks if mark.y_ends))
    y = svg.Axis(low=0.0, high=top, label="filled: ÷ source, hollow: ÷ scratch", percent=True)
    return svg.plot("median p* by blocks retrained", _of_k(ks), y, marks, lines)


def factors_by_k(group: Group) -> str:
    """How many times faster than adversarial training from scratch each transfer trains, on a log axis."""
    marks, lines, ks = [], [], set()
    for answer in answers(group):
        ink = colour(answer.models[0].rows[0])
        found = [(model, each) for model in answer.models if (each := speed_up(answer.scratch, [model])) is not None]
        points = [(float(model.facts.k or 0), each.value) for model, each in found]
        ks |= {model.facts.k or 0 for model, _ in found}
        if len(points) > 1:
            lines.append(svg.Line(points=points, title=answer.line, colour=ink))
        marks += [
            svg.Mark(
                x=k,
                y=value,
                title=f"{model.label}: × {value:.3g}, {markdown.seconds(model.seconds)} s",
                colour=ink,
                y_ends=(each.low, each.high),
            )
            for (k, value), (model, each) in zip(points, found, strict=True)
        ]
    if not marks:
        return ""
    low, high = min(0.9, *(mark.y for mark in marks)) / 1.2, max(1.0, *(mark.y for mark in marks)) * 1.5
    return svg.plot(
        "speed-up by blocks retrained",
        _of_k(ks),
        svg.Axis(low=low, high=high, label="times faster", log=True),
        marks,
        lines,
    )


def _of_k(ks: set[int]) -> svg.Axis:
    return svg.Axis(low=min(ks) - 0.5, high=max(ks) + 0.5, label="k, the blocks retrained", whole=True)


def distributions(group: Group) -> str:
    """A box of p* for every model with a correct image."""
    models = [model for model in models_of(group.rows) if model.right]
    if not models:
        return ""
    found = {model.label: percentiles(model) for model in models}
    rows = []
    for model in models:
        low, first, middle, third, high = (markdown.pstar(value, model.grid_end) for value in found[model.label])
        accuracy = markdown.percent(model.accuracies.value if model.accuracies else None)
        said = f"{model.label}: median {middle}, half from {first} to {third}, three quarters from {low} to {high}; "
        said += f"{accuracy} clean accuracy"
        name = f"{model.label}: {markdown.pstar(model.median, model.grid_end)} at {accuracy}"
        rows.append(svg.Box(name=name, percentiles=found[model.label], title=said, colour=colour(model.rows[0])))
    return svg.boxes("p* per model", svg.Axis(low=0.0, high=axis_end(models), label=f"p*: {RADIUS}"), rows)


def robust_curves(group: Group, label: str = "right and not fooled, of all images") -> str:
    """Share of all test images right and not fooled at ε, over ε, the seeds' images together."""
    models = [model for model in models_of(group.rows) if model.tested]
    if not models:
        return ""
    curves = {model.label: _robust_curve(model.tested) for model in models}
    reached = [
        radius for grid, shares in curves.values() for radius, share in zip(grid, shares, strict=True) if share > 0.002
    ]
    end = 1.05 * max([*reached, 0.01])
    lines = []
    for model in models:
        grid, shares = curves[model.label]
        points = [point for point in zip(grid, shares, strict=True) if point[0] <= end]
        points, dashes = _thinned(points), _dashes(group, model)
        lines.append(svg.Line(points=points, title=model.label, colour=_ink(model), dashes=dashes, steps=True))
    y = svg.Axis(low=0.0, high=1.0, label=label, percent=True)
    return svg.plot("robust accuracy by radius", svg.Axis(low=0.0, high=end, label=RADIUS), y, (), lines)


def kind_legend(models: Iterable[Model]) -> list[tuple[str, str, bool]]:
    """Name and colour of every kind of model."""
    kinds = {model.line or model.label.partition(" ")[0]: colour(model.rows[0]) for model in models}
    return [(kind, ink, False) for kind, ink in kinds.items()]


def curve_legend(group: Group) -> list[tuple[str, str, bool]]:
    """Name, colour, and whether it is dashed, of every curve."""
    return [(model.label, _ink(model), bool(_dashes(group, model))) for model in models_of(group.rows) if model.tested]


def _dashes(group: Group, model: Model) -> str:
    """Dashed: a model of the source data, and the second kind of transfer; dotted, a third one."""
    if model.line:
        return ("", "7 3", "2 2")[min(2, [*group.lines, model.line].index(model.line))]
    return "7 3" if is_source(group, model) else ""


def _ink(model: Model) -> str:
    return of_k(model.facts.k) if model.facts.k else colour(model.rows[0])


def _robust_curve(rows: Sequence[Row]) -> tuple[list[float], list[float]]:
    """The grid, and the share of images whose p* is larger than each of its radii."""
    results = [row.record.result for row in rows]
    pooled = np.concatenate([np.asarray(each.pstar) for each in results if each.grid == results[0].grid])
    counts = np.bincount(pooled[pooled != MISCLASSIFIED], minlength=len(results[0].grid) + 1)
    return results[0].grid, [float(share) for share in (counts.sum() - counts.cumsum()[:-1]) / len(pooled)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points at which a curve of steps changes, and its last."""
    kept = [point for number, point in enumerate(points) if not number or point[1] != points[number - 1][1]]
    return kept if not points or kept[-1] == points[-1] else [*kept, points[-1]]


def seconds_chart(group: Group) -> str:
    """Training seconds of every model on a log axis, a row each."""
    models = [model for model in models_of(group.rows) if model.seconds]
    if not models:
        return ""
    found = [model.seconds or 0.0 for model in models]
    x = svg.Axis(low=min(found) / 1.6, high=max(found) * 1.6, label="training seconds", log=True)
    rows = []
    for model in models:
        spread = model.spread(lambda row: row.seconds)
        total = markdown.seconds(model.value(lambda row: row.total_seconds))
        assert spread is not None
        text = f"{model.label}: {markdown.seconds(spread.value)} s"
        said = f"{text}, {total} s with validation, warm-up and I/O"
        ends = (spread.low, spread.value, spread.value, spread.value, spread.high)
        rows.append(svg.Box(name=text, percentiles=ends, title=said, colour=colour(model.rows[0])))
    return svg.boxes("training seconds per model", x, rows)


def histories(group: Group) -> list[tuple[str, str]]:
    """Of every trained model, in its first seed: validation accuracy, robust one and loss by epoch."""
    found = []
    for model in models_of(group.rows):
        training = model.rows[0].training
        if training is None or len(training.epochs) < 2:
            continue
        epochs, ink = training.epochs, colour(model.rows[0])
        worst = max(epoch.loss for epoch in epochs) or 1.0
        curves = {
            "validation accuracy": (
                "",
                [(epoch.epoch, epoch.validation.share, f"{epoch.validation.share:.1%}") for epoch in epochs],
            ),
            "robust validation accuracy": (
                "5 3",
                [(epoch.epoch, epoch.robust.share, f"{epoch.robust.share:.1%}") for epoch in epochs if epoch.robust],
            ),
            "loss": ("1 3", [(epoch.epoch, epoch.loss / worst, f"{epoch.loss:.4g}") for epoch in epochs]),
        }
        lines, marks = [], []
        for what, (dashes, points) in curves.items():
            if points:
                lines.append(svg.Line(points=[point[:2] for point in points], title=what, colour=ink, dashes=dashes))
                marks += [
                    svg.Mark(
                        x=x, y=y, title=f"epoch {x}: {what} {text}", colour=ink, hollow=what != "validation accuracy"
                    )
                    for x, y, text in points
                ]
        x = svg.Axis(low=0.5, high=len(epochs) + 0.5, label=f"epoch ({training.best} was kept)", whole=True)
        y = svg.Axis(low=0.0, high=1.02, label=f"accuracy; loss ÷ {worst:.3g}", percent=True)
        found.append((model.label, svg.plot(f"training of {model.label}", x, y, marks, lines, height=230)))
    return found
