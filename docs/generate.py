"""Pages of the reference that are made from the code: options, commands, and the published rows with their models."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from pathlib import Path

from mkdocs.structure.files import File, Files

from robbench.cli import new_parser, verbs_of
from robbench.plugin.settings import OPTIONS
from robbench.report.published import published_rows
from robbench.spec import Model
from robbench.spec.recipes import with_protocol

SUITES = Path(__file__).parents[1] / "suites"


def on_files(files: Files, config: object) -> Files:
    """Add the generated pages."""
    pages = {"options": _options(), "commands": _commands(), "rows": _rows()}
    for name, lines in pages.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(lines)))
    return files


def _options() -> Iterator[str]:
    yield "# Options of pytest\n\nEach has an ini twin: `robbench_store = …`. Verbs of `robbench` take them, too.\n"
    yield "| option | what it does |\n| --- | --- |"
    for name, text, extra in OPTIONS:
        option = f"--robbench-{name.replace('_', '-')} {extra.get('metavar', '')}".strip()
        yield f"| `{option}` | {text.replace('p*', 'p&ast;')} |"


def _commands() -> Iterator[str]:
    yield "# Commands\n"
    for name, parser in verbs_of(new_parser()).items():
        parser.prog = f"robbench {name}"
        yield f"## {name}\n\n```text\n{parser.format_help()}```\n"


def _rows() -> Iterator[str]:
    yield "# Published rows\n\nEvery row of tables B.1 to B.9 and the model that stands for it under the thesis protocol:"
    yield "`pytest -m suite SUITE -k MODEL --robbench-protocol thesis`. Median p&ast; one grid step above the printed value.\n"
    yield "| architecture | model | clean accuracy | median p&ast; | training s |\n| --- | --- | --: | --: | --: |"
    models = {}
    for name in ("mnist_emnist", "cifar10_cifar100"):
        study = with_protocol(runpy.run_path(str(SUITES / f"test_{name}.py"))["STUDY"], "thesis")
        models |= {_key(model): model.id for model in study.models() if _published(model)}
    for row in published_rows():
        figures = f"{row.accuracy:.1%} | {row.median_pstar:g} | {row.train_seconds:,.0f}"
        yield f"| `{row.architecture}` | `{models[row.key]}` | {figures} |"


def _key(model: Model) -> tuple[str | int | None, ...]:
    """What a published row is found by."""
    transfer, source = model.transfer, model.source
    of = source.dataset.name if source else None
    k, head = (transfer.k, transfer.head) if transfer else (None, "linear")
    return model.architecture, model.method, of, model.dataset.name, k, head


def _published(model: Model) -> bool:
    """Whether a model is none of those that the study adds to the published ones."""
    transfer, source = model.transfer, model.source
    kept = "warm" if (model.method, model.dataset.name) == ("transfer-adversarial", "cifar100") else "frozen"
    return not (model.variant or (transfer and transfer.kept != kept) or (source and source.method != "pgd"))
