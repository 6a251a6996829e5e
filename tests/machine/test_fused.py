"""Convolutions with their ReLU and pooling, quick on grey images: values and gradients are those of torch's layers."""

import pickle
from contextlib import suppress
from copy import deepcopy

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from robbench.machine import fused, onednn
from robbench.machine.fused import ConvReLU2d, ImageConvReLU2d
from robbench.models import build


def plain_layers(ours):
    """Torch's own layers with the weights of one of robbench's."""
    convolution = nn.Conv2d(ours.in_channels, ours.out_channels, ours.kernel_size, padding=ours.padding)
    convolution.load_state_dict(ours.state_dict())
    return nn.Sequential(convolution, nn.ReLU(), nn.MaxPool2d(ours.pool))


def twins(channels, side, padding, pool=1):
    """The layer under test and torch's own, with equal weights."""
    torch.manual_seed(0)
    ours = ImageConvReLU2d(channels, 8, side, padding=padding, pool=pool)
    return ours, plain_layers(ours)


def gradients(layer, images, precision=torch.float32):
    """Output, and gradients towards images, weight and bias of a weighted sum of it."""
    images = images.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        output = layer(images)
    output = output.to_dense() if output.is_mkldnn else output
    weighting = torch.linspace(-1, 1, output.numel()).view(output.shape)
    found = torch.autograd.grad((output.float() * weighting).sum(), [images, *layer.parameters()])
    return [output.detach(), *found]


@pytest.mark.parametrize(("channels", "side", "padding"), [(1, 3, 0), (1, 5, 2), (3, 3, 1), (1, 1, 0)])
@pytest.mark.parametrize("size", [28, 32, 30])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_every_gradient_is_that_of_plain_layers(channels, side, padding, size, pool):
    """Also where four does not divide the images' sides, nor the squares those of the result."""
    ours, plain = twins(channels, side, padding, pool)
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(1))
    for mine, theirs in zip(gradients(ours, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_the_gradient_follows_the_weights_however_they_change(monkeypatch):
    """In place, behind autograd's back, loaded or in another dtype; what is made of them is made once for equal weights."""
    made = []
    kernel = fused._squares_kernel
    monkeypatch.setattr(fused, "_squares_kernel", lambda weight: made.append(1) or kernel(weight))
    ours, plain = twins(1, 3, 0)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))

    def agree():
        for mine, theirs in zip(gradients(ours, images), gradients(plain, images), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)

    def double():
        nonlocal images
        ours.double(), plain.double()
        images = images.double()

    def in_place():
        with torch.no_grad():
            ours.weight.mul_(-2)

    def behind():
        ours.weight.data.add_(0.5)

    def loaded():
        ours.load_state_dict({name: value + 1 for name, value in ours.state_dict().items()})

    agree()
    for count, change in enumerate((in_place, behind, loaded, double), start=2):
        change()
        plain[0].load_state_dict(ours.state_dict())
        agree()
        agree()
        assert len(made) == count


def test_a_gradient_of_gradients_is_refused():
    """Rather than wrong: the gradient towards the images takes the weights as constants."""
    ours, _ = twins(1, 3, 0)
    ours.double()
    images = torch.rand(2, 1, 28, 28, dtype=torch.float64, requires_grad=True)
    (towards,) = torch.autograd.grad(ours(images).square().sum(), images, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        towards.square().sum().backward()


def test_gradients_under_autocast_have_the_dtypes_of_their_tensors():
    """Autocast runs the convolution in bfloat16; what comes back is float32, near the plain layer's."""
    ours, plain = twins(1, 3, 0)
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    mine, theirs = (gradients(layer, images, torch.bfloat16) for layer in (ours, plain))
    assert [tensor.dtype for tensor in mine] == [tensor.dtype for tensor in theirs]
    for one, other in zip(mine, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0.05, atol=0.05 * other.abs().max().item())


def test_pooling_before_the_relu_changes_neither_values_nor_gradients():
    """Also where whole windows tie, are negative, or are zero."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-2, 3, (4, 3, 8, 8), generator=generator).float()
    found = []
    for layers in ([nn.ReLU(), nn.MaxPool2d(2)], [nn.MaxPool2d(2), nn.ReLU(inplace=True)]):
        images = values.clone().requires_grad_()
        output = nn.Sequential(*layers)(images)
        weighting = torch.arange(1.0, output.numel() + 1).view(output.shape)
        found.append((output.detach(), torch.autograd.grad((output * weighting).sum(), images)[0]))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


@pytest.mark.parametrize("architecture", ["cnn3", "cnn4", "cnn7", "cnn_dropout"])
def test_networks_give_the_same_in_the_blocked_layout(architecture, monkeypatch):
    """Logits and the gradients of images and weights, beside torch's own layout; both really ran."""
    torch.manual_seed(0)
    network = build(architecture, classes=10, shape=(1, 28, 28)).eval()
    images = torch.rand(4, 1, 28, 28)
    layouts, found = [], []
    network.body.conv1.register_forward_hook(lambda layer, inputs, output: layouts.append(output.is_mkldnn))
    found.append(gradients(network, images))
    monkeypatch.setattr(fused, "has_blocked_layout", lambda: False)
    found.append(gradients(network, images))
    assert layouts == [torch.backends.mkldnn.is_available(), False]
    for blocked, dense in zip(*found, strict=True):
        torch.testing.assert_close(blocked, dense, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("architecture", ["cnn3", "cnn4", "cnn7", "cnn_dropout"])
def test_an_update_is_the_same_in_the_blocked_layout(architecture, monkeypatch):
    """Training mode, dropout included, with gradients towards the weights alone; and inference."""
    torch.manual_seed(0)
    network, images = build(architecture, classes=10, shape=(1, 28, 28)), torch.rand(4, 1, 28, 28)
    found = []
    for there in (True, False):
        monkeypatch.setattr(fused, "has_blocked_layout", lambda there=there: there)
        torch.manual_seed(1)
        logits = network(images)
        weighting = torch.linspace(-1, 1, logits.numel()).view(logits.shape)
        with torch.no_grad():
            inferred = network.eval()(images)
        network.train()
        found.append(
            [logits.detach(), inferred, *torch.autograd.grad((logits * weighting).sum(), network.parameters())]
        )
    for blocked, plain in zip(*found, strict=True):
        torch.testing.assert_close(blocked, plain, rtol=1e-3, atol=1e-5)


def test_the_blocked_layout_is_for_float32_only():
    """Autocast and other dtypes get what torch's layer gives."""
    layer, images = ImageConvReLU2d(1, 8, 3), torch.rand(2, 1, 28, 28)
    assert layer(images).is_mkldnn == torch.backends.mkldnn.is_available()
    assert not layer.double()(images.double()).is_mkldnn
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        assert not layer(images).is_mkldnn


def test_no_images_give_no_logits():
    """An empty batch passes through every layer."""
    assert build("cnn7", classes=10, shape=(1, 28, 28))(torch.rand(0, 1, 28, 28)).shape == (0, 10)


class Branches(nn.Module):
    """Two convolutions; the first one's result is also used beside, before and behind the second."""

    def __init__(self, first, second):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, images):
        """(N, 1, 28, 28) -> (N, 8, 26, 26)."""
        features = self.first(images)
        behind = self.second(features)
        added = self.second(features + features)
        return onednn.dense(features) + onednn.dense(behind) + onednn.dense(added)


def test_a_result_that_is_used_twice_gets_the_gradients_of_both_uses():
    """None of them is overwritten while another still needs it; also when the graph is gone through again."""
    torch.manual_seed(0)
    ours = Branches(ImageConvReLU2d(1, 8, 3), ConvReLU2d(8, 8, 3, padding=1))
    plain = Branches(plain_layers(ours.first), plain_layers(ours.second))
    images = torch.rand(2, 1, 28, 28)
    for mine, theirs in zip(gradients(ours, images), gradients(plain, images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_gradients_between_layers_are_those_of_plain_layers():
    """Asked for beside those of the images, seen by a hook, or handed back to go on from: attribution maps do all three."""
    torch.manual_seed(0)
    first, second = ImageConvReLU2d(1, 8, 3), ConvReLU2d(8, 8, 3, pool=2)
    images, found = torch.rand(2, 1, 28, 28, requires_grad=True), []
    for one, other in ((first, second), (plain_layers(first), plain_layers(second))):
        for _ in range(2):
            hooked = []
            features = one(images)
            features.register_hook(hooked.append)
            output = other(features)
            weighting = torch.linspace(-1, 1, output.numel()).view(output.shape)
            loss = (onednn.dense(output) * weighting).sum()
            towards = torch.autograd.grad(loss, [images, features], retain_graph=True)
            (between,) = torch.autograd.grad(loss, features, retain_graph=True)
            onwards = torch.autograd.grad(features, images, between)
        found.append([onednn.dense(each) for each in (*towards, between, *onwards, *hooked)])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_a_traced_network_is_one_of_torchs_own_layers():
    """What converts networks to other formats finds no operator that it does not know."""
    network, images = build("cnn7", classes=10, shape=(1, 28, 28), seed=0).eval(), torch.rand(2, 1, 28, 28)
    traced = torch.jit.trace(network, images)
    torch.testing.assert_close(traced(images), network(images), rtol=1e-4, atol=1e-5)


def test_a_bias_learns_under_frozen_weights():
    """Its gradient is that of a plain layer."""
    ours, plain = twins(1, 3, 0)
    images, towards = torch.rand(2, 1, 28, 28), []
    for layer in (ours, plain):
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(name.endswith("bias"))
        bias = next(parameter for parameter in layer.parameters() if parameter.requires_grad)
        towards += torch.autograd.grad(onednn.dense(layer(images)).square().sum(), bias)
    torch.testing.assert_close(*towards, rtol=1e-4, atol=1e-4)


def test_a_loss_that_is_kept_keeps_no_activations():
    """What the backward pass needed goes with it; weights' kernels may stay."""
    network = build("cnn7", classes=10, shape=(1, 28, 28), seed=0)
    loss = network(torch.rand(2, 1, 28, 28, requires_grad=True)).square().sum()
    loss.backward()
    nodes, convolutions = [loss.grad_fn], 0
    for node in nodes:
        nodes += [following for following, _ in node.next_functions if following is not None]
        if hasattr(node, "kernel"):
            convolutions += 1
            held = [name for name, value in vars(node).items() if isinstance(value, torch.Tensor)]
            assert held == ["kernel"]
            with pytest.raises(RuntimeError, match="freed"):
                assert node.saved_tensors
    assert convolutions == 4


def test_a_graph_can_be_gone_through_twice():
    """With ``retain_graph``, as for any network; pooling included."""
    network = build("cnn7", classes=10, shape=(1, 28, 28), seed=0).eval()
    images = torch.rand(2, 1, 28, 28, requires_grad=True)
    loss = network(images).square().sum()
    first, second = (torch.autograd.grad(loss, images, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(first, second)


def with_fake_tensors(network, images):
    """As tools do that want to know shapes only."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        network(torch.rand(2, 1, 28, 28, requires_grad=True))


def of_several_networks(network, images):
    """An ensemble as torch.func computes it."""
    parameters, buffers = torch.func.stack_module_state([network, network])
    together = torch.vmap(lambda *state: torch.func.functional_call(network, state, (images,)), (0, 0))
    together(parameters, buffers)


def exported(network, images):
    """To other programs."""
    torch.export.export(network, (images,))


def differentiated_by_function(network, images):
    """The gradient as a function of the images."""
    torch.func.grad(lambda images: network(images).sum())(images)


def attacked(network, images):
    """As usual."""
    network(images).sum().backward()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "look", [with_fake_tensors, of_several_networks, exported, differentiated_by_function, attacked]
)
def test_a_network_that_was_looked_at_is_as_before(look):
    """Whether the layers allow the way of looking or not, it can be attacked, copied and pickled after."""
    network, plain = (build("cnn7", classes=10, shape=(1, 28, 28), seed=0).eval() for _ in range(2))
    images, size = torch.rand(2, 1, 28, 28, requires_grad=True), len(pickle.dumps(plain))
    with suppress(RuntimeError, NotImplementedError):
        look(network, images)
    for parameter in network.parameters():
        parameter.grad = None
    for one, other in zip(gradients(network, images.detach()), gradients(plain, images.detach()), strict=True):
        assert torch.equal(one, other)
    assert len(pickle.dumps(network)) < size + 1_000
    assert torch.equal(deepcopy(network)(images), plain(images))


def test_a_compiled_network_has_the_gradients_of_the_network():
    """The compiler is shown torch's own layers."""
    network = build("cnn7", classes=10, shape=(1, 28, 28), seed=0).eval()
    images = torch.rand(2, 1, 28, 28)
    compiled = torch.compile(network, backend="aot_eager")
    for mine, theirs in zip(gradients(compiled, images), gradients(network, images), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-5)


def test_an_image_without_a_batch_passes_as_through_torchs_layers():
    """(C, H, W) is a shape that convolutions know."""
    ours, plain = twins(1, 3, 0)
    for mine, theirs in zip(
        gradients(ours, torch.ones(1, 28, 28)), gradients(plain, torch.ones(1, 28, 28)), strict=True
    ):
        torch.testing.assert_close(mine, theirs)
