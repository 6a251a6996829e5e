"""Weights from elsewhere: published names, prefixes, copies, normalisation, and files that are refused."""

from __future__ import annotations

import argparse
import json

import pytest
import timm
import torch
import torchvision
from published import Normalised, PreAct, Residual, Swish, Wide, drawn, torchvision_small
from safetensors.torch import save_file

from robbench.errors import RobbenchError
from robbench.models import build, weights
from robbench.models.checkpoints import fitting, network_of_checkpoint
from robbench.models.matching import find_weights
from robbench.spec import Checkpoint

COLOUR = (3, 32, 32)
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
SMALL = "wideresnet10_1"


def loaded(tmp_path, architecture, content, shape=COLOUR, classes=10, **options):
    """The network of a checkpoint that torch.save wrote."""
    torch.save(content, tmp_path / "weights.pt")
    return network_of_checkpoint(architecture, Checkpoint(tmp_path / "weights.pt", **options), shape, classes)


def small(seed=0):
    """The published tensors of a tiny wide network."""
    torch.manual_seed(seed)
    return drawn(Wide(10, 1, unused=False), seed).state_dict()


def prefixed(tensors, prefix):
    """The tensors under longer names."""
    return {prefix + name: tensor for name, tensor in tensors.items()}


def assert_same_logits(network, other, shape=COLOUR):
    """Two networks agree to float32 on random pixels, on logits that are not all alike."""
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = other(images)
        torch.testing.assert_close(network(images), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    assert expected.std() > 1e-3


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "network"),
    [
        ("wideresnet10_2", lambda: Wide(10, 2)),
        ("wideresnet16_1", lambda: Wide(16, 1, unused=False)),
        ("wideresnet10_2_swish", lambda: Swish(10, 2)),
        ("wideresnet16_1_swish", lambda: Swish(16, 1)),
        ("preactresnet18", PreAct),
        ("preactresnet18_raw", lambda: PreAct(raw=True)),
        ("preactresnet18_bn", lambda: PreAct(last_norm=True)),
        ("resnet18", Residual),
        ("resnet18", lambda: torchvision_small("resnet18")),
        ("resnet50", lambda: torchvision_small("resnet50")),
    ],
)
def test_published_networks_keep_their_logits(tmp_path, architecture, network):
    """By their own names, behind a normalisation as RobustBench wraps them."""
    network = Normalised(drawn(network()), *CIFAR)
    mapped = loaded(tmp_path, architecture, network.state_dict())
    assert mapped.found.prefix == "model."
    assert mapped.found.normalisations[0].names == ("normalize.mean", "normalize.std")
    assert_same_logits(mapped.network, network)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "wide_resnet50_2"])
def test_torchvisions_weights_fit_timms_networks(tmp_path, name):
    """The classes are the file's own where nothing says how many there are."""
    network = drawn(torchvision.models.get_model(name, num_classes=7))
    mapped = loaded(tmp_path, f"timm:{name}", network.state_dict(), (3, 64, 64), None, mean=0, std=1)
    assert mapped.network.classes == 7
    assert_same_logits(mapped.network, network, (3, 64, 64))


def test_transformers_weights_fit_timms_networks():
    """Names as microsoft/resnet-18 has them, on the tensors of timm's own network."""
    expected = {
        "resnet.embedder.embedder.convolution.weight": "conv1.weight",
        "resnet.embedder.embedder.normalization.running_var": "bn1.running_var",
        "resnet.encoder.stages.1.layers.0.shortcut.convolution.weight": "layer2.0.downsample.0.weight",
        "resnet.encoder.stages.1.layers.0.shortcut.normalization.bias": "layer2.0.downsample.1.bias",
        "resnet.encoder.stages.3.layers.1.layer.0.convolution.weight": "layer4.1.conv1.weight",
        "resnet.encoder.stages.3.layers.1.layer.1.normalization.weight": "layer4.1.bn2.weight",
        "classifier.1.bias": "fc.bias",
    }
    found = find_weights(build("timm:resnet18", classes=10, shape=COLOUR), {name: torch.zeros(2) for name in expected})
    assert {name: key for key, name in found.names.items()} == expected


@pytest.mark.parametrize(
    ("architecture", "published", "size"),
    [
        ("wideresnet28_10", Wide, (28, 10)),
        ("wideresnet34_10", Wide, (34, 10)),
        ("wideresnet28_10_swish", Swish, (28, 10)),
    ],
)
def test_the_large_wide_networks_have_the_published_tensors(architecture, published, size):
    """Depth and width as their name says; shapes are those of the published modules."""
    with torch.device("meta"):
        network = published(*size)
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith("sub_block1.")}
    network = build(architecture, classes=10, shape=COLOUR)
    found, own = find_weights(network, expected), network.body.state_dict()
    assert {*found.names.values()} == expected.keys()
    assert all(own[key].shape == expected[name].shape for key, name in found.names.items())


def test_architectures_that_a_file_fits_are_found_and_twins_named(tmp_path):
    """The two forms of a pre-activation ResNet without a last norm have the same tensors: a note says so."""
    made = loaded(tmp_path, "preactresnet18", PreAct(classes=7).state_dict(), classes=None, mean=0, std=1)
    assert fitting(Checkpoint(tmp_path / "weights.pt")) == ["preactresnet18", "preactresnet18_raw"]
    assert "fit preactresnet18_raw as well as preactresnet18" in made.notes[-1]


# --- prefixes and copies ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: tensors,
        lambda tensors: prefixed(tensors, "module."),
        lambda tensors: prefixed(tensors, "_orig_mod."),
        lambda tensors: prefixed(tensors, "module.model.") | {"n_averaged": torch.tensor(3)},
        lambda tensors: prefixed(tensors, "1."),
        lambda tensors: {
            "state_dict": prefixed(tensors, "module."),
            "epoch": 3,
            "optimizer": {"state": {0: {"buffer": tensors["fc.bias"]}}},
        },
        lambda tensors: {"net": {"weights": tensors}, "acc": 0.5, "args": ["a"]},
        lambda tensors: {name: tensor for name, tensor in tensors.items() if "num_batches" not in name},
        lambda tensors: tensors | prefixed(tensors, "sub_block1."),
        lambda tensors: prefixed(tensors, "module.model.") | prefixed(tensors, "module.attacker.model."),
        lambda tensors: tensors | {f"{each}.{name}": torch.ones(3) for each in "ab" for name in ("mean", "std")},
        lambda tensors: {"model": small(1), "model_ema": tensors},
        lambda tensors: small(1) | prefixed(tensors, "ema."),
        lambda tensors: {"state_dict": small(1), "ema": prefixed(tensors, "module.")},
    ],
)
def test_wrappers_around_the_names_are_taken_off(tmp_path, wrap):
    """Prefixes, nested dicts, equal copies; of an averaged copy and another, the averaged one."""
    tensors = small()
    own = weights(loaded(tmp_path, SMALL, wrap(tensors), mean=0, std=1).network)
    plain = weights(loaded(tmp_path, SMALL, tensors, mean=0, std=1).network)
    assert all(torch.equal(own[name], plain[name]) for name in plain if "num_batches" not in name)


def test_a_part_chooses_among_several_networks(tmp_path):
    """Without it two different networks are refused, and an averaged copy goes first, which the note says."""
    tensors, other = small(), small(1)
    content = {"student": tensors, "teacher": other}
    with pytest.raises(RobbenchError, match=r"holds several networks that fit, 'student/', 'teacher/'; name a word"):
        loaded(tmp_path, SMALL, content, mean=0, std=1)
    with pytest.raises(RobbenchError, match=r"expected names that contain 'techer', got student/"):
        loaded(tmp_path, SMALL, content, mean=0, std=1, part="techer")
    made = loaded(tmp_path, SMALL, content, mean=0, std=1, part="teacher")
    assert torch.equal(made.network.body.fc.bias, other["fc.bias"])
    averaged = {"model": tensors, "ema": other}
    made = loaded(tmp_path, SMALL, averaged, mean=0, std=1)
    assert torch.equal(made.network.body.fc.bias, other["fc.bias"])
    assert "read from 'ema/' in the file, which also holds 'model/'" in made.notes[0]
    made = loaded(tmp_path, SMALL, averaged, mean=0, std=1, part="model")
    assert torch.equal(made.network.body.fc.bias, tensors["fc.bias"])


# --- normalisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("front", "pair"),
    [("", ("mu", "sigma")), ("", ("mean", "std")), ("0.", ("mean", "std")), ("normalizer.", ("new_mean", "new_std"))],
)
def test_a_files_own_normalisation_is_put_in_front(tmp_path, front, pair):
    """Under the names that published files have; what was found is said."""
    values = [torch.tensor(each).view(1, 3, 1, 1) for each in CIFAR]
    content = prefixed(small(), "model.") | {front + name: each for name, each in zip(pair, values, strict=True)}
    made = loaded(tmp_path, SMALL, content)
    assert torch.equal(made.network.normalise.mean, values[0])
    assert torch.equal(made.network.normalise.std, values[1])
    assert f"mean (0.4914, 0.4822, 0.4465) and std (0.247, 0.2435, 0.2616) ({front}{pair[0]} and" in made.notes[0]


@pytest.mark.parametrize(("mean", "std"), [([0.25], [0.5]), (None, None)])
def test_a_file_of_robbenchs_own_says_what_normalises_its_pixels(tmp_path, mean, std):
    """In its metadata, nothing at all included: then it sees plain pixels."""
    facts = {"robbench": json.dumps({"mean": mean, "std": std})}
    save_file(small(), tmp_path / "own.safetensors", metadata=facts)
    made = network_of_checkpoint(SMALL, Checkpoint(tmp_path / "own.safetensors"), COLOUR)
    assert made.network.normalise.values == (tuple(mean or [0.0]), tuple(std or [1.0]))


def test_a_normalisation_is_asked_for_where_the_file_has_none_or_several(tmp_path):
    """The weights tell nothing of it; declared values go before those of the file, which the note says."""
    with pytest.raises(
        RobbenchError, match=r"the file does not hold it; Checkpoint\('.*', mean=\(…\), std=\(…\)\) says"
    ):
        loaded(tmp_path, SMALL, small())
    one, other = ({"mean": torch.tensor([m]), "std": torch.tensor([0.5])} for m in (0.5, 0.25))
    content = small() | prefixed(one, "a.") | prefixed(other, "b.")
    with pytest.raises(RobbenchError, match=r"holds mean \(0.5\) and std \(0.5\); mean \(0.25\) and std \(0.5\); Ch"):
        loaded(tmp_path, SMALL, content)
    made = loaded(tmp_path, SMALL, content, mean=0.125, std=0.5)
    assert made.network.normalise.values == ((0.125,), (0.5,))
    assert "as declared, although a.mean and a.std in the file are mean (0.5) and std (0.5)" in made.notes[0]
    with pytest.raises(RobbenchError, match="expected 1 or 3 values of mean and std, got 2"):
        loaded(tmp_path, SMALL, small(), mean=(0.5, 0.5), std=(0.5, 0.5))


def test_grey_images_go_through_a_network_for_colour_in_three_channels(tmp_path):
    """With the logits of the same image in colour; gradients reach the grey pixels."""
    network = Normalised(drawn(Wide(10, 1)), *CIFAR)
    made = loaded(tmp_path, SMALL, network.state_dict(), (1, 32, 32))
    assert "it sees grey images in three channels" in made.notes[-1]
    grey = torch.rand(2, 1, 32, 32, requires_grad=True)
    logits = made.network(grey)
    torch.testing.assert_close(logits, network(grey.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)
    (gradient,) = torch.autograd.grad(logits.sum(), grey)
    assert gradient.abs().max() > 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            lambda: {"args": argparse.Namespace(lr=1), **small()},
            r"it also holds argparse\.Namespace, which can run code",
        ),
        (lambda: {"epoch": 3}, "expected a state_dict, got dict without tensors"),
        (lambda: {"a.weight": torch.zeros(2)}, f"expected names as {SMALL} is published with, got a.weight"),
        (
            lambda: small() | {"extra.weight": torch.zeros(2)},
            r"unexpected: extra\.weight; `robbench import .* says which",
        ),
        (lambda: Wide(10, 2).state_dict(), r"of another shape: block1\.0\.conv1\.weight \(32, 16, 3, 3\) where"),
        (
            lambda: Wide(10, 1, classes=100).state_dict(),
            "expected a network of 10 classes, as the images have, got 100",
        ),
    ],
)
def test_files_that_are_no_weights_of_the_network_are_refused(tmp_path, content, message):
    """In one sentence, which names the file."""
    with pytest.raises(RobbenchError, match=message) as caught:
        loaded(tmp_path, SMALL, content(), mean=0, std=1)
    assert "weights.pt" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_a_file_of_another_kind_is_refused(tmp_path, name):
    """A picture, say, under either ending."""
    (tmp_path / name).write_bytes(b"\x89PNG\r\n")
    with pytest.raises(RobbenchError, match=rf"{name}': expected (a safetensors file|what torch\.save writes)"):
        network_of_checkpoint(SMALL, Checkpoint(tmp_path / name, mean=0, std=1), COLOUR, 10)


def test_a_file_that_changed_since_its_digest_was_taken_is_refused(tmp_path):
    """Else its weights would be stored under the old digest."""
    save_file(small(), tmp_path / "weights.safetensors")
    checkpoint = Checkpoint(tmp_path / "weights.safetensors", mean=0, std=1)
    assert checkpoint.sha256
    save_file(small(1), tmp_path / "weights.safetensors")
    with pytest.raises(RobbenchError, match="the file has changed since this run began"):
        network_of_checkpoint(SMALL, checkpoint, COLOUR, 10)


# --- timm's -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The Hugging Face cache with timm's resnet18.a1_in1k in it, of random weights; that network."""
    network = drawn(timm.create_model("resnet18"))
    folder = tmp_path / "models--timm--resnet18.a1_in1k"
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text("abc")
    save_file(network.state_dict(), folder / "snapshots" / "abc" / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return network


@pytest.mark.parametrize("shape", [(3, 96, 96), (1, 64, 64)])
def test_timms_own_weights_are_taken_from_its_cache(hub, shape):
    """With timm's mean and std; grey images become colour."""
    made = network_of_checkpoint("timm:resnet18", Checkpoint("timm:resnet18.a1_in1k"), shape)
    assert (made.network.classes, made.network.shape) == (1000, (3, *shape[1:]))
    mean, std = (torch.tensor(each).view(1, 3, 1, 1) for each in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    assert_same_logits(made.network, lambda images: hub((images - mean) / std), shape)
    assert "(as timm says)" in made.notes[0]


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18.a2_in1k", "are not on this machine; --robbench-download "),
        ("resnet18.a9", r"unknown weights 'timm:resnet18.a9'; timm publishes .*resnet18\.a1_in1k"),
    ],
)
def test_timms_weights_are_downloaded_on_request_only(name, message, monkeypatch):
    """Nothing is asked of the network otherwise."""
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("a connection was opened"))
    with pytest.raises(RobbenchError, match=message):
        network_of_checkpoint("timm:resnet18", Checkpoint(f"timm:{name}"), (3, 64, 64))
