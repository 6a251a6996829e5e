"""Bounds never lie above the truth, and equal it where it is known."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import linear_case
from torch import nn

from robbench.bounds import METHODS, BoundedNetwork, Boxes, propagation
from robbench.bounds import layers as bound_layers
from robbench.bounds.propagation import margin_functions
from robbench.errors import RobbenchError
from robbench.models import build, place


class Residual(nn.Module):
    """A sum of two branches, an average and a maximum: every kind of layer with bounds, on images of 2 pixels a side."""

    def __init__(self, width):
        super().__init__()
        self.first = nn.Conv2d(1, width, 2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.pool = nn.MaxPool2d(2, stride=1)
        self.mean = nn.AdaptiveAvgPool2d((1, 2))
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(2 * width, 3)

    def forward(self, images):
        """Logits of three classes."""
        features = torch.relu(self.norm(self.first(images)))
        features = self.pool(features + self.second(features)).relu()
        return self.head(self.drop(torch.flatten(self.mean(features), 1)))


def tiny(seed):
    """A network of two pixels in a row, or of four in a square."""
    torch.manual_seed(seed)
    width = 2 + seed % 4
    if seed % 2:
        network = Residual(width)
        for value in (network.norm.running_mean, network.norm.running_var, network.norm.weight.data):
            value.copy_(torch.rand_like(value) + 0.2)
        return network.eval(), (1, 2, 2)
    stack = nn.Sequential(nn.Flatten(), nn.Linear(2, width), nn.ReLU(), nn.Linear(width, 4), nn.ReLU(), nn.Linear(4, 3))
    return stack, (1, 1, 2)


def corners_and_grid(boxes, side):
    """(B, P, C, H, W): images of each box on a grid of so many values a pixel."""
    low, high = boxes.low.flatten(1), boxes.high.flatten(1)
    steps = torch.cartesian_prod(*[torch.linspace(0, 1, side)] * low.shape[1])
    points = low[:, None] + (high - low)[:, None] * steps
    return points.view(len(low), -1, *boxes.low.shape[1:])


@settings(deadline=None, max_examples=170)
@given(seed=st.integers(0, 10**6))
def test_no_bound_is_above_exhaustive_search(seed):
    """Over 64 images and radii of a random network, by every method: 10,880 boxes."""
    network, shape = tiny(seed)
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(64, *shape, generator=generator)
    radii = 0.3 * torch.rand(64, generator=generator) ** 2
    with torch.no_grad():
        labels = network(images).argmax(1)
        others = torch.arange(3) != labels[:, None]
        functions, owners, _ = margin_functions(labels, others)
        boxes = Boxes.around(images, radii)
        points = corners_and_grid(boxes, 33 if shape[2] * shape[1] == 2 else 7)
        logits = network(points.flatten(0, 1)).view(*points.shape[:2], 3)
        least = (logits[owners] * functions[:, None]).sum(2).amin(1)
        bounds = [BoundedNetwork(network).margins(boxes, functions, owners, method) for method in METHODS]
    for bound in bounds:
        assert (bound <= least).all()


@pytest.fixture
def no_margin(monkeypatch):
    """Bounds are not moved outwards."""
    for module in (bound_layers, propagation):
        monkeypatch.setattr(module, "MARGIN", 0.0)


SMALL = [
    ("cnn_small", (1, 28, 28)),
    ("relu_2_64", (1, 28, 28)),
    ("cnn4", (1, 28, 28)),
    ("cnn_dropout", (1, 28, 28)),
    ("resnet18", (3, 8, 8)),
    ("wrn10_1", (3, 8, 8)),
    ("preactresnet18_raw", (3, 8, 8)),
    ("wideresnet10_1", (3, 8, 8)),
]


@pytest.mark.parametrize(("architecture", "shape"), SMALL)
@pytest.mark.parametrize("method", ["ibp", "crown-ibp"])
def test_bounds_of_single_images_are_the_margins(architecture, shape, method, no_margin):
    """Through every layer and back: what the network computes."""
    mean = (0.2,) * shape[0]
    network = build(architecture, classes=5, shape=shape, mean=mean, std=(0.4,) * shape[0], seed=3).eval().double()
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        logits = network(images)
        labels = logits.argmax(1)
        functions, owners, _ = margin_functions(labels, torch.arange(5) != labels[:, None])
        bound = BoundedNetwork(network).margins(Boxes(images, images), functions, owners, method)
    assert torch.allclose(bound, (functions * logits[owners]).sum(1), atol=1e-6)


def test_crown_of_a_convolution_is_that_of_the_same_linear_map():
    """Windows leave out zeros only: a convolutional network and its matrix have the same bounds."""
    torch.manual_seed(1)
    convolutions = nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Flatten()
    )
    last = nn.Linear(64, 3)

    def matrix(layer, shape):
        zero = torch.zeros(1, *shape)
        inputs = torch.eye(zero.numel()).view(-1, *shape)
        dense = nn.Linear(zero.numel(), layer(zero).numel())
        dense.weight.data = (layer(inputs) - layer(zero)).flatten(1).t().contiguous()
        dense.bias.data = layer(zero).flatten()
        return dense

    with torch.no_grad():
        dense = nn.Sequential(
            nn.Flatten(),
            matrix(convolutions[0], (1, 8, 8)),
            nn.ReLU(),
            matrix(convolutions[2], (3, 4, 4)),
            nn.ReLU(),
            last,
        )
        boxes = [
            Boxes.around(torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(2)), torch.full((3,), 0.2))
        ]
        boxes.append(Boxes(boxes[0].low, boxes[0].high))
        functions = torch.tensor([[1.0, -1, 0], [0, 1, -1], [1, 0, -1]])
        found = [
            BoundedNetwork(network, rows=2).margins(box, functions, torch.arange(3), "crown")
            for network, box in zip((nn.Sequential(convolutions, last), dense), boxes, strict=True)
        ]
    assert torch.allclose(*found, atol=1e-4)


def test_a_swapped_network_has_the_bounds_of_its_plain_layers():
    """What makes a CPU faster is known to bounds, too, as training by them sees it."""
    plain, swapped = (build("cnn4", classes=4, shape=(1, 28, 28), seed=1).eval() for _ in range(2))
    place(swapped, torch.device("cpu"))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3])
    worst = [
        BoundedNetwork(network).worst_logits(Boxes.around(images, torch.full((2,), 0.01)), labels, 4, "ibp")
        for network in (plain, swapped)
    ]
    assert torch.allclose(*worst, rtol=1e-4, atol=1e-4)


def test_a_linear_network_has_exact_bounds():
    """w·x + b − ε‖w‖₁."""
    network, images, labels, _ = linear_case(3)
    functions, owners, _ = margin_functions(labels, torch.arange(2) != labels[:, None])
    with torch.no_grad():
        boxes = Boxes.around(images, torch.full((12,), 0.01))
        scores = (functions.double() * network(images)[owners]).sum(1)
        for method in METHODS:
            bound = BoundedNetwork(network).margins(boxes, functions, owners, method)
            expected = scores - 0.01 * network[1].weight[0].abs().sum()
            assert torch.allclose(bound, expected, atol=1e-3)
            assert (bound <= expected).all()


@pytest.mark.parametrize(("architecture", "shape"), SMALL[:3])
def test_float32_loses_less_than_half_of_the_outward_margin(architecture, shape, monkeypatch):
    """Against the same bounds in float64, without any margin."""
    network = build(architecture, classes=10, shape=shape, seed=5).eval()
    images = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(4)
    functions, owners, _ = margin_functions(labels, torch.arange(10) != labels[:, None])

    margin = propagation.MARGIN

    def bound(margin, dtype, method):
        for module in (bound_layers, propagation):
            monkeypatch.setattr(module, "MARGIN", margin)
        boxes = Boxes.around(images, torch.full((4,), 0.02))
        boxes.low, boxes.high = boxes.low.to(dtype), boxes.high.to(dtype)
        with torch.no_grad():
            return BoundedNetwork(network.to(dtype)).margins(boxes, functions, owners, method).double()

    for method in METHODS[: 3 if architecture == "relu_2_64" else 2]:
        exact, rounded, outward = (
            bound(*each, method) for each in ((0, torch.float64), (0, torch.float32), (margin, torch.float32))
        )
        assert (outward < exact).all()
        assert ((rounded - exact).abs() <= 0.5 * (rounded - outward)).all()


@pytest.mark.parametrize("method", METHODS)
def test_float32_certifies_nothing_where_weights_cancel(method):
    """Through two layers that are nearly orthogonal, coefficients are what is left of large products: against float64."""
    for seed in range(5):
        torch.manual_seed(seed)
        first, last = torch.rand(256, 2, dtype=torch.float64), torch.randn(2, 256, dtype=torch.float64)
        network = nn.Sequential(nn.Flatten(), nn.Linear(2, 256, bias=False), nn.ReLU(), nn.Linear(256, 2, bias=False))
        network[1].weight.data = first.float()
        network[3].weight.data = (last - last @ first @ torch.linalg.pinv(first)).float()
        boxes = Boxes.around(torch.rand(64, 1, 1, 2), torch.full((64,), 0.01))
        functions = torch.tensor([[1.0, -1.0]]).repeat(64, 1)
        with torch.no_grad():
            bound = BoundedNetwork(network).margins(boxes, functions, torch.arange(64), method)
            logits = network.double()(corners_and_grid(boxes, 2).flatten(0, 1).double()).view(64, 4, 2)
        assert (bound <= (logits[..., 0] - logits[..., 1]).amin(1)).all()


@pytest.mark.parametrize(
    ("network", "says"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), r"got 2 \(GELU\)"),
        (nn.Sequential(nn.Conv2d(1, 1, 2, padding=1, padding_mode="reflect")), r"got 0 \(Conv2d\)"),
        (nn.Sequential(nn.MaxPool2d(2, ceil_mode=True)), r"got 0 \(MaxPool2d\)"),
    ],
)
def test_a_layer_without_bounds_is_named(network, says):
    """One error says what is known, what came, and what to do."""
    with pytest.raises(RobbenchError, match=says):
        BoundedNetwork(network)


def test_a_network_that_looks_at_its_images_has_no_bounds():
    """What runs must not depend on values."""

    class Looks(nn.Module):
        def forward(self, images):
            return images if images.sum() > 0 else -images

    with pytest.raises(RobbenchError, match="layers that run in one order"):
        BoundedNetwork(Looks())


def test_a_head_that_is_not_returned_is_not_bounded():
    """Even where it is computed after the logits, and by layers without bounds."""

    class TwoHeads(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.other = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, images):
            """Logits; the other head runs for nothing."""
            features = images.flatten(1)
            logits = self.head(features)
            torch.sigmoid(self.other(features))
            return logits

    assert [node.name for node in BoundedNetwork(TwoHeads()).nodes][-1] == "head (Linear)"


def test_neurons_with_exact_intervals_are_not_counted():
    """The first layer's: intervals of one linear layer are exact."""
    network = build("relu_2_64", classes=10, shape=(1, 28, 28))
    assert BoundedNetwork(network).neurons((1, 28, 28)) == 64
