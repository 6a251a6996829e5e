"""A network as a file, and back: the same logits, by torch, TorchScript and ONNX."""

from __future__ import annotations

import copy
import sys
import types
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from stages import small
from torch import nn

import robbench
from robbench.errors import RobbenchError
from robbench.models import build, export_network, replace_head, weights

CLASSES = [f"c{number}" for number in range(7)]


def network(architecture="cnn7", shape=(1, 28, 28), head="linear", **changes):
    """A network with seven classes in eval mode, whose batch norms have seen images."""
    made = build(architecture, classes=7, shape=shape, seed=3, **changes)
    if head != "linear":
        replace_head(made, 7, head, seed=4)
    with torch.no_grad():
        made.train()(torch.rand(4, *shape))
    return made.eval()


@pytest.fixture
def own(monkeypatch):
    """A module of a user's own, with a network that cannot be traced for other batches beside a usual one."""
    module = types.ModuleType("own_networks")

    class Counting(nn.Sequential):
        def forward(self, images):
            return super().forward(images) * len(images)  # a number for the trace

    module.small = small
    module.counting = lambda classes, shape: Counting(*small(classes, shape))
    monkeypatch.setitem(sys.modules, "own_networks", module)


MEAN_STD = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.1)}


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(
    "made",
    [
        {},
        {"head": "mlp2"},
        {"architecture": "resnet18", "shape": (3, 16, 16), **MEAN_STD},
        {"architecture": "timm:resnet10t", "shape": (3, 32, 32), "head": "mlp1"},
        {"architecture": "own_networks:small", "shape": (3, 8, 8)},
    ],
    ids=lambda made: made.get("architecture", "cnn7") + made.get("head", ""),
)
def test_a_file_gives_the_network_back(tmp_path, made):
    """The same logits of the same pixels, to the bit; in eval mode, with the names of its classes."""
    before, path = network(**made), tmp_path / "model.safetensors"
    export_network(path, before, head=made.get("head", "linear"), classes=CLASSES)
    after = robbench.load_model(path, code="own_networks")
    images = torch.rand(5, *before.shape)
    assert torch.equal(after(images), before(images))
    assert (after.training, after.class_names, after.shape) == (False, tuple(CLASSES), before.shape)
    assert load_file(path).keys() == weights(before).keys()


@pytest.mark.parametrize("ending", [".ts", ".onnx"])
def test_a_network_for_colour_that_sees_grey_images_is_traced_with_grey_ones(tmp_path, ending):
    """As it is asked in the study that made it."""
    before, path = network("resnet18", (3, 16, 16), mean=(0.5,), std=(0.2,)), tmp_path / f"model{ending}"
    export_network(path, before, head="linear", classes=CLASSES, shape=(1, 16, 16))
    images = torch.rand(3, 1, 16, 16)
    if ending == ".ts":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.jit.load(path)(images)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = torch.from_numpy(session.run(None, {"images": images.numpy()})[0])
    torch.testing.assert_close(found, before(images), rtol=0, atol=1e-4)


@pytest.mark.usefixtures("own")
def test_code_of_ones_own_runs_only_if_it_is_named(tmp_path):
    """The file alone imports nothing."""
    path = tmp_path / "model.safetensors"
    export_network(path, network("own_networks:small", (1, 8, 8)), head="linear", classes=CLASSES)
    with pytest.raises(
        RobbenchError, match=r"expected code='own_networks', since own_networks:small builds the network"
    ):
        robbench.load_model(path)


@pytest.mark.parametrize("content", [None, b"", {"a": torch.zeros(1)}], ids=["no file", "empty", "somebody else's"])
def test_another_file_is_refused(tmp_path, content):
    """In one sentence."""
    path = tmp_path / "model.safetensors"
    if isinstance(content, dict):
        save_file(content, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(RobbenchError, match=r"expected a \.safetensors file of `robbench export`"):
        robbench.load_model(path)


def test_torchscript_needs_no_robbench(tmp_path):
    """Batches of any size, pixels as they are."""
    before = network("resnet18", (3, 16, 16), **MEAN_STD)
    export_network(tmp_path / "model.ts", before, head="linear", classes=CLASSES)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript
        traced = torch.jit.load(tmp_path / "model.ts")
    for count in (1, 6):
        images = torch.rand(count, 3, 16, 16)
        torch.testing.assert_close(traced(images), before(images), rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("own")
def test_a_network_that_a_trace_does_not_hold_is_refused(tmp_path):
    """Its logits depend on the size of the batch, which the trace took for a constant."""
    with pytest.raises(RobbenchError, match=r"own_networks:counting as TorchScript: expected the network's own logits"):
        export_network(
            tmp_path / "model.ts", network("own_networks:counting", (1, 8, 8)), head="linear", classes=CLASSES
        )
    assert not any(tmp_path.iterdir())


def test_onnx_runs_elsewhere(tmp_path):
    """ONNX Runtime gives the same logits, for batches of any size."""
    import onnxruntime

    before = network("resnet18", (3, 16, 16), **MEAN_STD)
    export_network(tmp_path / "model.onnx", before, head="linear", classes=CLASSES)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for count in (1, 6):
        images = torch.rand(count, 3, 16, 16)
        (logits,) = session.run(["logits"], {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(logits), before(images), rtol=1e-4, atol=1e-5)


def test_an_onnx_file_with_other_logits_is_refused(tmp_path, monkeypatch):
    """A bias that is 10⁻⁴ larger in the file than in the network."""
    export = torch.onnx.export

    def doctored(model, *given, **options):
        other = copy.deepcopy(model)
        with torch.no_grad():
            [*other.parameters()][-1].add_(1e-4)
        return export(other, *given, **options)

    monkeypatch.setattr(torch.onnx, "export", doctored)
    with pytest.raises(RobbenchError, match=r"cnn7 as ONNX: expected torch's logits to 1e-05, got '0\.0001 off'"):
        export_network(tmp_path / "model.onnx", network(), head="linear", classes=CLASSES)


def test_onnx_without_its_packages_says_what_to_install(tmp_path, monkeypatch):
    """They are an extra."""
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(RobbenchError, match=r"pip install 'robbench\[onnx\]'"):
        export_network(tmp_path / "model.onnx", network(), head="linear", classes=CLASSES)


def test_another_ending_is_refused(tmp_path):
    """With the endings that there are."""
    with pytest.raises(RobbenchError, match=r"unknown ending of an exported model '\.pth'; expected one of \.onnx, "):
        export_network(tmp_path / "model.pth", network(), head="linear", classes=CLASSES)
