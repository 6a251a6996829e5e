"""What a stage is made of: a data set's parts, and networks in another memory format, the same function."""

import pytest
import torch

from robbench.data import Data, draw
from robbench.errors import RobbenchError
from robbench.models import build, place
from robbench.spec import Dataset
from robbench.stages.networks import training_parts


def test_a_data_set_too_small_to_be_split_is_named():
    """A study has several; the share alone would not tell which."""
    images = draw("glyphs10", 1, 0)
    data = Data("few", images, images, tuple("0123456789"))
    expected = "^dataset 'few' validation: expected a share that leaves both parts of 1 images non-empty, got 0.2$"
    with pytest.raises(RobbenchError, match=expected):
        training_parts(Dataset(name="few", validation=0.2), data, torch.device("cpu"))


@pytest.mark.parametrize(
    ("architecture", "shape"),
    [
        ("cnn3", (1, 28, 28)),
        ("cnn4", (1, 28, 28)),
        ("cnn7", (1, 28, 28)),
        ("resnet18", (3, 8, 8)),
        ("wrn10_1", (3, 8, 8)),
    ],
)
def test_channels_last_changes_no_result_beyond_rounding(architecture, shape):
    """Logits, and gradients towards images and weights, beside the network as it is built."""
    generator = torch.Generator().manual_seed(0)
    images, weight = torch.rand(4, *shape, generator=generator), torch.rand(4, 10, generator=generator)
    results = []
    for move in (lambda network, device: network, place):
        network = move(build(architecture, classes=10, shape=shape, seed=1), torch.device("cpu")).eval()
        given = images.clone().requires_grad_()
        logits = network(given)
        gradients = torch.autograd.grad((weight * logits).sum(), [given, *network.parameters()])
        results.append([logits, *gradients])
    formats = [
        parameter.is_contiguous(memory_format=torch.channels_last)
        for parameter in network.parameters()
        if parameter.ndim == 4
    ]
    assert all(formats)
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-3, atol=1e-4)
