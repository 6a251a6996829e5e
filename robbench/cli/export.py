"""``robbench export``: a trained model of a study as a file by itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from robbench.cli.options import Commands, adapted_studies, add_changes, add_places, path
from robbench.errors import RobbenchError, require, unknown
from robbench.gate.verdicts import show_pstar

if TYPE_CHECKING:
    from robbench.data import ImageSource
    from robbench.models import Network


def add_parser(commands: Commands) -> argparse.ArgumentParser:
    """Declare the verb's options."""
    parser = commands.add_parser(
        "export",
        help="a trained model as .safetensors, TorchScript (.ts) or .onnx",
        epilog="example: robbench export suites/test_mine.py cnn7-glyphs47-TL3 -o model.onnx",
    )
    parser.add_argument("suite", metavar="SUITE", help="the suite file that declares it")
    parser.add_argument("model", metavar="MODEL", help="its name, as pytest lists it: cnn7-glyphs47-TL3")
    parser.add_argument(
        "--vnnlib",
        type=float,
        metavar="EPSILON",
        help="beside an .onnx file, a query for complete verifiers on the first test image that the model gets right",
    )
    parser.add_argument("-o", "--output", type=path, default=Path("model.safetensors"), metavar="FILE")
    add_changes(parser)
    add_places(parser)
    return parser


def run(options: argparse.Namespace) -> int:
    """Write the file, and print what is in it."""
    from robbench.machine.environment import choose_device
    from robbench.models.exported import export_network
    from robbench.stages import task_of
    from robbench.stages.context import RunContext
    from robbench.stages.graph import finished_records
    from robbench.stages.networks import stored_network
    from robbench.store import Store

    found = [(study, model) for study in adapted_studies(options, options.suite) for model in study.models()]
    study, model = next((pair for pair in found if pair[1].id == options.model), (None, None))
    if study is None or model is None:
        raise unknown("model of the suite", options.model, [model.id for _, model in found])
    context = RunContext(store=Store(options.store), data=options.data, device=choose_device(options.device))
    tasks = task_of(study, "training", model), task_of(study, "robustness", model)
    records = finished_records(tasks, context)
    if tasks[0] not in records:
        raise RobbenchError(
            f"export: expected {tasks[0].name} to be finished in {options.store}, it is not; run it first: "
            f"pytest -m suite {options.suite} -k {model.id}{_as_run(options)}"
        )
    finished = context.store.finished(records[tasks[0]].key)
    assert finished is not None
    network, data = stored_network(model, context, finished), context.images(model.dataset)
    head = model.transfer.head if model.transfer else "linear"
    if options.vnnlib is not None:
        ends = options.output.suffix == ".onnx"
        require(ends, "export --vnnlib", "an .onnx file beside it (-o model.onnx)", str(options.output))
        require(0 <= options.vnnlib <= 1, "export --vnnlib", "a radius in pixel units, from 0 to 1", options.vnnlib)
    export_network(options.output, network, head=head, classes=data.classes, shape=data.shape)
    said = (
        f"{options.output}: {model.id}, {'×'.join(map(str, data.shape))} images in [0, 1], {len(data.classes)} classes"
    )
    if robustness := tasks[1] in records and records[tasks[1]].robustness:
        said += f"; median p* {show_pstar(robustness.median)}, clean accuracy {robustness.clean.share:.1%}"
    print(said)
    if options.vnnlib is not None:
        for path in _write_queries(options.output, network, data.test, options.vnnlib):
            print(path)
    return 0


def _write_queries(output: Path, network: Network, test: ImageSource, epsilon: float) -> list[Path]:
    """VNN-LIB files of both versions on the first test image that the network gets right."""
    import torch

    from robbench.bounds import Boxes
    from robbench.bounds.queries import VERSIONS, vnnlib
    from robbench.data import pixels
    from robbench.store.files import write_atomically

    for index in range(len(test)):
        batch = test.take(torch.tensor([index]))
        images, label = pixels(batch.images), int(batch.labels[0])
        if int(network(images).argmax()) == label:
            break
    else:
        raise RobbenchError("export --vnnlib: expected a test image that the model gets right, there is none")
    boxes = Boxes.around(images, torch.tensor([epsilon]))
    paths = []
    for version in VERSIONS:
        name = f"{output.stem}-image{index}-{epsilon:g}-v{version.partition('.')[0]}.vnnlib"
        text = vnnlib(boxes.low[0], boxes.high[0], label, network.classes, version)
        write_atomically(output.with_name(name), text.encode())
        paths.append(output.with_name(name))
    return paths


def _as_run(options: argparse.Namespace) -> str:
    """The options that change the study, as pytest has them."""
    given = [f"dataset {name}" for name in options.dataset]
    given += [f"{name} {value}" for name in ("protocol", "seeds") if (value := getattr(options, name)) is not None]
    given += ["quick"] if options.quick else []
    return "".join(f" --robbench-{option}" for option in given)
