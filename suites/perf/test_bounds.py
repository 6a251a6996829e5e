"""Certified bounds beside a plain implementation, one image at a time: seconds, growth with images, memory."""

import resource
import time

import pytest
import torch
from torch import nn

from robbench.bounds import BoundedNetwork, Boxes
from robbench.bounds.propagation import margin_functions
from robbench.machine.precision import full_precision
from suites.perf.plain import as_written

pytestmark = pytest.mark.perf

EPSILON = 0.1
IMAGES = 16
FASTER = {"relu_2_64": 0.5, "cnn_small": 10}
"""How many times faster than the plain implementation the batched bounds must be; two small layers leave little to gain."""
LINEAR = 1.3
"""Times for four times the images, against four times the time: at most."""


@pytest.mark.parametrize("architecture", ["relu_2_64", "cnn_small"])
def test_crown(architecture, perf, trained, digits):
    """CROWN of one radius: all images together against one after the other, every neuron of dense layers."""
    network, images, labels = trained("pgd", architecture)
    network = as_written(network).eval()
    with torch.no_grad(), full_precision(perf.device):
        right = (network(images).argmax(1) == labels).nonzero().flatten()[: 4 * IMAGES]
    images, labels, found, bounded = images[right], labels[right], {}, BoundedNetwork(network)

    def batched(count=IMAGES):
        with torch.no_grad(), full_precision(perf.device):
            functions, owners, _ = margin_functions(labels[:count], others(labels[:count]))
            boxes = Boxes.around(images[:count], torch.full((count,), EPSILON))
            margins = bounded.margins(boxes, functions, owners, "crown")
            found["batched"] = margins.view(count, -1).amin(1)

    dense = dense_layers(network, images[:1])

    def plain(count=IMAGES):
        with torch.no_grad():
            each = [
                crown_of_one(dense, image, int(label)) for image, label in zip(images[:count], labels, strict=False)
            ]
        found["plain"] = torch.stack(each)

    rounds = perf.compare(
        batched,
        {"one image at a time": plain},
        images=IMAGES,
        warm_up=lambda: batched(2),
        rounds=1,
        group="certified bounds",
        case=f"{architecture}, CROWN at {EPSILON}, {digits.name}",
        data=digits.name,
    )
    seconds = {}
    for count in (IMAGES, 2 * IMAGES, 4 * IMAGES):
        start = time.perf_counter()
        batched(count)
        seconds[count] = time.perf_counter() - start
    growth = (seconds[4 * IMAGES] / seconds[IMAGES]) / 4
    perf.note(
        neurons=sum(layer.out_features for layer in dense[:-1]),
        seconds_by_images=seconds,
        growth_against_linear=growth,
        peak_memory_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )
    faster = rounds.ratio("one image at a time")
    print(architecture, faster, seconds, growth)
    perf.target("CROWN against one image at a time", faster, FASTER[architecture])
    batched()
    assert torch.allclose(found["batched"], found["plain"], atol=1e-2)
    assert faster >= FASTER[architecture]
    assert growth <= LINEAR


@pytest.mark.parametrize("width", [32, 64, 128])
def test_growth_with_neurons(width, perf):
    """CROWN of one radius of an untrained network with two hidden layers of this width."""
    images, labels = torch.rand(IMAGES, 1, 28, 28), torch.arange(IMAGES) % 10
    functions, owners, _ = margin_functions(labels, others(labels))
    hidden = [nn.Linear(784, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()]
    bounded = BoundedNetwork(nn.Sequential(nn.Flatten(), *hidden, nn.Linear(width, 10)).eval())

    def bound():
        with torch.no_grad(), full_precision(perf.device):
            boxes = Boxes.around(images, torch.full((IMAGES,), EPSILON))
            bounded.margins(boxes, functions, owners, "crown")

    case = f"two layers of {width}, CROWN at {EPSILON}"
    rounds = perf.compare(bound, {}, images=IMAGES, group="certified bounds", case=case)
    print(width, rounds.seconds["robbench"])


def others(labels):
    """(N, 10) which classes are not the label."""
    return torch.arange(10) != labels[:, None]


def dense_layers(network, example):
    """The linear layers between ReLUs as matrices, as a plain implementation has them."""
    dense, shape = [], example.shape[1:]
    for layer in network.body:
        if isinstance(layer, nn.Conv2d | nn.Linear):
            size = int(torch.Size(shape).numel())
            inputs = torch.eye(size).view(size, *shape)
            with torch.no_grad():
                bias = layer(torch.zeros(1, *shape))
                matrix = nn.Linear(size, bias.numel())
                matrix.weight.data = (layer(inputs) - bias).flatten(1).t().contiguous()
                matrix.bias.data = bias.flatten()
            dense.append(matrix)
            shape = bias.shape[1:]
        elif isinstance(layer, nn.Flatten):
            shape = (int(torch.Size(shape).numel()),)
    return dense


def crown_of_one(dense, image, label):
    """The smallest margin of one image by CROWN with every neuron of every layer (Zhang et al. 2018, theorem 3.2)."""
    low, high = (image - EPSILON).clamp(0, 1).flatten(), (image + EPSILON).clamp(0, 1).flatten()
    relaxed = []
    for number, layer in enumerate(dense):
        last = number == len(dense) - 1
        start = torch.eye(layer.out_features)
        if last:
            start = start[label] - start[torch.arange(len(start)) != label]
        lower = backwards(dense[: number + 1], relaxed, start, low, high)
        if last:
            return lower.min()
        upper = -backwards(dense[: number + 1], relaxed, -start, low, high)
        slope = (upper.clamp(min=0) / (upper.clamp(min=0) - lower.clamp(max=0)).clamp(min=1e-12)).clamp(0, 1)
        relaxed.append(((upper > -lower).float(), slope, -slope * lower.clamp(max=0)))
    return None


def backwards(dense, relaxed, functions, low, high):
    """Lower bounds of linear functions of the last of these layers."""
    added = torch.zeros(len(functions))
    for layer, lines in zip(reversed(dense), [*reversed(relaxed), None], strict=True):
        added = added + functions @ layer.bias
        functions = functions @ layer.weight
        if lines is not None:
            under, over, offset = lines
            negative = functions.clamp(max=0)
            added = added + negative @ offset
            functions = (functions - negative) * under + negative * over
    middle, radius = (low + high) / 2, (high - low) / 2
    return added + functions @ middle - functions.abs() @ radius
