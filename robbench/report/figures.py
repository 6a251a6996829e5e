"""Which pictures a study's and an architecture's records allow, and what is said below each."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from robbench.report.answers import answers
from robbench.report.boxes import draw_boxes
from robbench.report.curves import draw_ecdf, draw_study_tradeoff, draw_tradeoff
from robbench.report.dots import draw_ablation, draw_answers
from robbench.report.drawing import ABLATION, ANSWERS, NEVER, Picture, file_name
from robbench.report.durations import draw_seconds, draw_study_seconds
from robbench.report.rows import Group

_Drawing = tuple[str, str, str, Callable[[], bytes]]
"""Kind, alt text, caption, and what draws it."""


def draw(group: Group) -> list[Picture]:
    """Every figure of an architecture that its records allow."""
    tested = [row for row in group.rows if row.robustness and row.robustness.pstar]
    several, published = len(group.seeds) > 1, _published([group])
    drawings: list[_Drawing] = []
    if any(answer.best for answer in answers(group)):
        drawings.append(
            (
                ANSWERS,
                "retention, relative robustness and speed-up of every transfer",
                "Of every transfer, k blocks retrained: median p* ÷ that of its source, median p* ÷ that of the target "
                "adversarially trained from scratch (both with 99% bootstrap intervals over images; an arrowhead at the "
                "edge: the interval goes on past it, without end where a median may be past the grid's; an open triangle "
                "is a bound, where a median is censored), and how many times faster it trained"
                + ("; points: medians over seeds, crosses: the seeds" if several else "")
                + "; hollow, dashed: published" * published,
                lambda: draw_answers(group),
            )
        )
    if tested:
        drawings.append(
            (
                "pstar",
                "box plots of p* and clean accuracy per model",
                "Clean accuracy, and p* of the correct images: box from the 25th to the 75th percentile, line at the "
                "median, whiskers from the 12.5th to the 87.5th (75% of the images); the share written in the hatched "
                f"band was {NEVER} inside the grid, an arrowhead is a whisker that leads there; the axis ends above the "
                "highest whisker"
                + (
                    "; boxes hold the images of all seeds, dots are the seeds' medians, lines on bars their range"
                    * several
                ),
                lambda: draw_boxes(group),
            )
        )
    if any(row.median is not None for row in tested):
        drawings += [
            (
                "ecdf",
                "share of correct images fooled by perturbation radius",
                "Share of the correctly classified images that the attack fools at radius ε or less; what is missing "
                f"to 100% at the right edge was {NEVER}; dashed: models of the source data"
                + ("; curves over the images of all seeds, bands from the least to the greatest seed" * several),
                lambda: draw_ecdf(group),
            ),
            (
                "tradeoff",
                "median p* over clean accuracy",
                "Median p* over clean accuracy; numbers are k, the blocks retrained"
                + "; hollow, dashed: published" * published
                + ("; points are medians over seeds, lines reach from the least to the greatest seed" * several),
                lambda: draw_tradeoff(group),
            ),
        ]
    if any(row.seconds for row in group.rows):
        drawings.append(
            (
                "seconds",
                "training seconds per model",
                "Training seconds on a log axis, with the speed-up over adversarial training of the target from "
                "scratch; the tick adds validation, warm-up and I/O, which is what published seconds span"
                + ("; points are medians over seeds, lines reach from the least to the greatest seed" * several),
                lambda: draw_seconds(group),
            )
        )
    if any(row.robustness for row in group.variants):
        drawings.append(
            (
                ABLATION,
                "change of median p* by field of the thesis protocol",
                "Change of median p* when one field follows the published code, against the same model of the study, "
                "with 99% bootstrap intervals over images drawn alike for both; filled: beyond noise; an arrowhead at the edge: the change, or "
                "an end of its interval, is past the grid's end" + ("; crosses: the seeds" * several),
                lambda: draw_ablation(group),
            )
        )
    about = f"{group.architecture} ({group.suite})"
    return [
        Picture(kind, file_name(group.suite, group.architecture, kind), f"{about}: {alt}", f"{about}. {text}.", made())
        for kind, alt, text, made in drawings
    ]


def draw_study(groups: Sequence[Group]) -> list[Picture]:
    """The figures that hold all architectures of a study; none where there is only one."""
    if len(groups) < 2:
        return []
    suite = groups[0].suite
    several, published = any(len(group.seeds) > 1 for group in groups), _published(groups)
    drawings: list[_Drawing] = []
    if any(row.median is not None for group in groups for line in group.lines for row in group.of(line)):
        drawings.append(
            (
                "tradeoff",
                "median p* over clean accuracy of every architecture's transfers",
                "Median p* over clean accuracy of the transferred models; numbers are k, the blocks retrained"
                + "; hollow, dashed: published" * published
                + ("; points are medians over seeds, lines reach from the least to the greatest seed" * several),
                lambda: draw_study_tradeoff(groups),
            )
        )
    if any(row.seconds for group in groups for row in group.rows):
        drawings.append(
            (
                "seconds",
                "training seconds of every architecture",
                "Training seconds on a log axis; of a kind of transfer the mean over its k, the line reaching from the "
                "fastest to the slowest"
                + "; hollow: published" * published
                + ("; of every model the median over seeds" * several),
                lambda: draw_study_seconds(groups),
            )
        )
    return [
        Picture(
            kind, file_name(suite, "study", kind), f"{suite}: {alt}", f"{suite}, all architectures. {text}.", made()
        )
        for kind, alt, text, made in drawings
    ]


def _published(groups: Sequence[Group]) -> bool:
    """Whether a model stands beside a published one."""
    return any(row.published for group in groups for row in group.rows)
