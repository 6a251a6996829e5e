"""Fused convolutions: what is swapped, and that values and gradients stay those of torch's own layers."""

from copy import deepcopy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from robbench.machine import onednn
from robbench.machine.onednn import FusedConvolution, plain_layers, swap
from robbench.models import build, place

CPU = torch.device("cpu")


def results(network, images):
    """Output, and the gradients of a weighted sum of it towards images and parameters, with the same dropout each time."""
    torch.manual_seed(1)
    images = images.clone().requires_grad_()
    output = network(images)
    weighting = torch.linspace(-1, 1, output.numel()).view(output.shape)
    learning = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return [output.detach(), *torch.autograd.grad((output.float() * weighting).sum(), [images, *learning])]


def assert_same(found, expected, tolerance=1e-4):
    """Up to float rounding."""
    for mine, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=10 * tolerance, atol=tolerance)


def fused(network):
    """The fused layers of a network."""
    return [layer for layer in network.modules() if isinstance(layer, FusedConvolution)]


def random_images(*shape):
    """The same ones for every test."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("architecture", ["relu_4_1024", "cnn3", "cnn7", "cnn_dropout"])
def test_a_placed_network_is_the_plain_one(architecture, training):
    """Logits, gradients, state dict and the names of its layers; placing it again changes nothing."""
    plain = build(architecture, classes=10, shape=(1, 28, 28)).train(training)
    images, names = random_images(4, 1, 28, 28), [name for name, _ in plain.named_modules()]
    placed = place(deepcopy(plain), CPU)
    assert len(fused(placed)) == {"cnn3": 1, "cnn7": 4, "cnn_dropout": 2}.get(architecture, 0)
    again = place(deepcopy(placed), CPU)
    expected, found = results(plain, images), results(placed, images)
    assert_same(found, expected, 1e-5)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(results(again, images), found, strict=True))
    with torch.no_grad():
        torch.testing.assert_close(placed.eval()(images), plain.eval()(images), rtol=1e-4, atol=1e-5)
    for network in (placed, again):
        assert [name for name, _ in network.named_modules()] == names
        assert network.state_dict().keys() == plain.state_dict().keys()
        assert all(layer.training == placed.training for layer in placed.modules())


@pytest.mark.parametrize(("channels", "side", "padding"), [(1, 3, 0), (1, 5, 2), (3, 3, 1), (1, 1, 0)])
@pytest.mark.parametrize("size", [28, 30])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_every_gradient_is_that_of_torchs_layers(channels, side, padding, size, pool):
    """Also where four does not divide the sides of the images, nor the pooling those of the result."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(channels, 8, side, padding=padding), nn.ReLU(), nn.MaxPool2d(pool), nn.Flatten())
    layers = deepcopy(plain)
    swap(layers)
    assert [type(layer) for layer in layers] == [FusedConvolution, nn.Identity, nn.Identity, nn.Flatten]
    images = random_images(3, channels, size, size)
    assert_same(results(layers, images), results(plain, images))


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(2, 8, (3, 1)), nn.ReLU()],
        [nn.Conv2d(2, 8, 3, stride=2), nn.ReLU()],
        [nn.Conv2d(2, 8, 3, dilation=2), nn.ReLU()],
        [nn.Conv2d(2, 8, 3, groups=2), nn.ReLU()],
        [nn.Conv2d(2, 8, 3, padding=1, padding_mode="circular"), nn.ReLU()],
        [nn.Conv2d(2, 8, 3, padding="same"), nn.ReLU()],
        [nn.Conv2d(2, 8, 1, padding=1), nn.ReLU()],
        [nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU()],
        [nn.Conv2d(2, 8, 3), nn.GELU()],
        [nn.Conv2d(2, 8, 3)],
        [parametrizations.weight_norm(nn.Conv2d(2, 8, 3)), nn.ReLU()],
        [nn.Conv2d(2, 8, 1), nn.Conv2d(8, 8, 3), nn.ReLU()],
    ],
    ids=str,
)
def test_what_the_fused_layer_cannot_do_is_left_alone(layers):
    """Other kernels, strides, paddings and neighbours, and convolutions of features."""
    layers = nn.Sequential(*layers)
    swap(layers)
    assert fused(layers) == []


def test_a_network_of_ones_own_is_swapped_where_it_can_be():
    """A chain may end in any layer, and a pooling that overlaps ends it."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 3, 3, padding=1), nn.ReLU())
    others = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(8, 8, 2), nn.ReLU())
    plain = nn.Sequential(first, others)
    swapped, images = deepcopy(plain), random_images(2, 3, 16, 16)
    swap(swapped)
    assert [layer.begins for layer in fused(swapped)] == [True, False, True]
    assert_same(results(swapped, images), results(plain, images))


@pytest.fixture
def cnn7():
    """A plain network and the same one placed, in eval mode."""
    plain = build("cnn7", classes=10, shape=(1, 28, 28)).eval()
    return plain, place(deepcopy(plain), CPU)


@pytest.mark.parametrize("inside", [plain_layers, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["plain", "bf16"])
def test_torchs_own_layers_are_used_where_they_are_asked_for(cnn7, inside):
    """On request, and in autocast, which chooses another dtype."""
    images, layouts = random_images(2, 1, 28, 28), []
    fused(cnn7[1])[0].register_forward_hook(lambda layer, inputs, output: layouts.append(output.is_mkldnn))
    with inside():
        assert_same(results(cnn7[1], images), results(cnn7[0], images), 0.01)
    cnn7[1](images)
    assert layouts == [False, torch.backends.mkldnn.is_available()]


def test_nan_gets_through_torchs_own_layers(cnn7):
    """So that what judges a network sees it."""
    with torch.no_grad(), plain_layers():
        assert cnn7[1](torch.full((1, 1, 28, 28), torch.nan)).isnan().all()


def test_a_placed_network_can_be_float64_or_take_no_images(cnn7):
    """The fused layers leave that to torch's."""
    assert cnn7[1](torch.rand(0, 1, 28, 28)).shape == (0, 10)
    images = random_images(2, 1, 28, 28).double()
    assert_same(results(cnn7[1].double(), images), results(cnn7[0].double(), images))


@pytest.mark.filterwarnings("ignore")
def test_a_traced_or_compiled_network_gets_torchs_own_layers(cnn7, monkeypatch):
    """Tracers and compilers know these."""
    images = random_images(2, 1, 28, 28)
    traced = torch.jit.trace(cnn7[1], images)
    assert "mkldnn" not in str(traced.inlined_graph)
    assert_same(results(traced, images), results(cnn7[0], images))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert not cnn7[1].body[:1](images).is_mkldnn


def test_the_gradient_follows_the_weights_however_they_change(cnn7):
    """In place, behind autograd's back, or loaded: the kernel made of them is made again."""
    plain, placed = cnn7
    images, weight = random_images(2, 1, 28, 28), placed.body.conv1.weight

    def in_place():
        with torch.no_grad():
            weight.mul_(-2)

    for change in (
        lambda: None,
        in_place,
        lambda: weight.data.add_(0.5),
        lambda: placed.load_state_dict({name: value + 0.01 for name, value in placed.state_dict().items()}),
    ):
        change()
        plain.load_state_dict(placed.state_dict())
        for _ in range(2):
            torch.testing.assert_close(results(placed, images), results(plain, images), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("frozen", [["conv1.weight", "conv1.bias"], ["conv1.bias", "conv2.weight"]])
def test_frozen_parameters_leave_the_other_gradients_as_they_are(cnn7, frozen):
    """Each gradient is computed for itself."""
    for network in cnn7:
        for name in frozen:
            network.body.get_parameter(name).requires_grad_(False)
    images = random_images(2, 1, 28, 28)
    assert_same(results(cnn7[1], images), results(cnn7[0], images))


def test_a_second_derivative_is_an_error(cnn7):
    """It would be wrong."""
    images = random_images(2, 1, 28, 28).requires_grad_()
    loss = cnn7[1](images).square().sum()
    (towards,) = torch.autograd.grad(loss, images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        towards.sum().backward()


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch was built without oneDNN")
@pytest.mark.parametrize(
    "operator",
    [None, lambda features, weight, *rest: torch.nn.functional.conv2d(features, weight)],
    ids=["missing", "without ReLU"],
)
def test_another_torch_does_without_the_fused_operator(operator, monkeypatch, cnn7):
    """Where it is missing or gives other values, torch's own layers compute."""
    images = random_images(2, 1, 28, 28)
    assert onednn._has_operator()
    onednn._has_operator.cache_clear()
    monkeypatch.setattr(torch.ops.mkldnn, "_convolution_pointwise", operator)
    try:
        assert not onednn._has_operator()
        assert_same(results(cnn7[1], images), results(cnn7[0], images))
    finally:
        onednn._has_operator.cache_clear()
