"""The recommendations of a study in sentences: the first lines of every report, and the last of a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from robbench.report import markdown
from robbench.report.bootstrap import CONFIDENCE, interval
from robbench.report.choice import KEPT, Candidate, Choice, Recommendation, best_under
from robbench.report.rows import FEW, dataset_label


class Advice(NamedTuple):
    """One recommendation in plain text."""

    purpose: str
    """``most robustness``, ``best balance``, ``least cost``."""
    name: str
    """Of the model."""
    figures: str
    """Its figures, with the interval of the one that decides."""
    rivals: str
    """A sentence that names what nothing separates from it; empty where it stands alone."""

    def __str__(self) -> str:
        return f"for {self.purpose}: {self.name}, {self.figures}{'; ' * bool(self.rivals)}{self.rivals}"


def advice(choice: Choice) -> list[Advice]:
    """A recommendation for each purpose."""
    return [
        Advice(each.purpose, each.best.name, _figures(each), _rivals(each.rivals)) for each in choice.recommendations
    ]


def budgets(choice: Choice) -> str:
    """The most robust model within each power of ten of training seconds; empty where one such limit holds all."""
    timed = [each.seconds for each in choice.candidates if each.eligible and each.seconds]
    if not choice.recommendations or not timed:
        return ""
    powers = range(math.ceil(math.log10(min(timed))), math.ceil(math.log10(max(timed))) + 1)
    found = {10.0**power: best_under(choice.candidates, seconds=10.0**power) for power in powers}
    shown = [
        f"{seconds:,.10g} s: {best.name} ({markdown.pstar(best.model.median, best.model.grid_end)})"
        for seconds, best in found.items()
        if best
    ]
    return f"most robust within {', '.join(shown)}" if len(shown) > 1 else ""


def nothing(choice: Choice) -> str:
    """Why nothing is recommended; empty where there is nothing to choose from."""
    if choice.recommendations or len(choice.candidates) < 2:
        return ""
    names = [each.name for each in choice.candidates if each.eligible]
    return (
        f"nothing is recommended on {dataset_label(choice.dataset)}: {f'only {names[0]}' if names else 'no model'} has "
        f"{FEW} correct images and {floor_text(choice)} clean accuracy"
    )


def excluded(choice: Choice) -> str:
    """Which models were not considered, and why; empty where all were."""
    names = [each.name for each in choice.candidates if not each.eligible]
    if not names or not choice.recommendations:
        return ""
    shown = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return f"not considered, below {floor_text(choice)} clean accuracy or {FEW} correct images: {shown}"


def fronts(choice: Choice) -> str:
    """The Pareto front in the plane with its area, and what training seconds as a third dimension add to it."""
    if not choice.recommendations:
        return ""
    plane = "; ".join(each.name for each in choice.on_front)
    low, high = choice.area_interval
    area = f"area below it {choice.area:.3f}, {low:.3f} to {high:.3f}"
    added = [each.name for each in choice.on_front_with_cost if each not in choice.on_front]
    cheaper = f". With training seconds, too: {'; '.join(added)}" if added else ""
    return f"Pareto front of clean accuracy and median p* ({area}): {plane}{cheaper}"


def floor_text(choice: Choice) -> str:
    """The accuracy floor, from the least to the greatest of the architectures."""
    return " to ".join(dict.fromkeys(markdown.percent(floor, 0) for floor in (choice.floors[0], choice.floors[-1])))


def criterion(purpose: str, choice: Choice) -> str:
    """What a purpose goes by."""
    return {
        "most robustness": "the highest median p*",
        "best balance": (
            f"the highest expected robustness (chance that an image is right at a radius drawn from 0 to "
            f"{markdown.radius(choice.epsilon)}), where ten times the training seconds must buy a quarter more"
        ),
        "least cost": f"the fewest training seconds among those with {KEPT:.0%} of the highest median p* or more",
    }[purpose]


def pstar_text(candidate: Candidate) -> str:
    """``0.235 (0.218 to 0.250)``: median p* with its interval."""
    return f"{markdown.pstar(candidate.model.median, candidate.model.grid_end)} ({pstar_interval(candidate)})"


def pstar_interval(candidate: Candidate) -> str:
    """The interval of the median p*."""
    return " to ".join(markdown.pstar(end, candidate.model.grid_end) for end in interval(candidate.medians))


def _figures(found: Recommendation) -> str:
    best = found.best
    figures = [f"median p* {pstar_text(best)}", f"{markdown.percent(best.accuracy)} clean accuracy"]
    if found.purpose == "best balance":
        figures.append(
            f"expected robustness {markdown.percent(best.expected)} "
            f"({markdown.percent(found.low)} to {markdown.percent(found.high)})"
        )
    if best.seconds:
        seconds = f"{markdown.seconds(best.seconds)} s"
        several = found.purpose == "least cost" and not math.isclose(found.low, found.high)
        ends = f" ({markdown.seconds(found.low)} to {markdown.seconds(found.high)})" if several else ""
        figures.append(f"trained in {seconds}{ends}")
        if best.source and best.source.seconds:
            other = found.with_source if found.with_source is not best else None
            counted = f" (with that counted in: {other.name})" if other else ""
            figures.append(f"its source in {markdown.seconds(best.source.seconds)} s{counted}")
    return ", ".join(figures)


def _rivals(rivals: Sequence[Candidate]) -> str:
    """The nearest three, and how many more."""
    if not rivals:
        return ""
    named = "; ".join(each.name for each in rivals[:3])
    more = f" and {len(rivals) - 3} more" if len(rivals) > 3 else ""
    return f"nothing separates it from {named}{more} ({CONFIDENCE:.0%} interval of the paired difference)"
