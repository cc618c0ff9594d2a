"""Lipschitz constants: each operation's own."""

import itertools
import math

import pytest
import torch
from branch_constants import constant
from dense_matrices import jacobian, matrix, norm
from torch import nn
from torch.nn import functional

from timestepper.errors import StabilityError

SCALAR = {
    "relu": functional.relu,
    "relu in place": lambda x: functional.relu_(x.clone()),
    "relu6": functional.relu6,
    "leaky relu": lambda x: functional.leaky_relu(x, 0.3),
    "steep leaky relu": lambda x: functional.leaky_relu(x, 1.7),
    "elu": lambda x: functional.elu(x, 2.0),
    "elu of small slope": lambda x: functional.elu(x, 0.5),
    "celu": lambda x: functional.celu(x, 2.0),
    "prelu": lambda x: functional.prelu(x, torch.tensor([1.3])),
    "selu": functional.selu,
    "gelu": functional.gelu,
    "gelu by tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
    "hardswish": functional.hardswish,
    "hardsigmoid": functional.hardsigmoid,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softplus": functional.softplus,
    "softplus of a layer": nn.Softplus(),
    "log of sigmoid": functional.logsigmoid,
    "softshrink": functional.softshrink,
    "rrelu": functional.rrelu,
    "steep rrelu": lambda x: functional.rrelu(x, 1.5, 2.0),
    "clamp": lambda x: x.clamp(-1, 1),
    "absolute value": torch.abs,
    "product with a number": lambda x: -2.5 * x + 1,
}


@pytest.mark.parametrize("name", SCALAR)
def test_slopes_of_functions_of_each_value(name):
    function = SCALAR[name]
    x = torch.linspace(-12, 12, 240001).requires_grad_()
    (slopes,) = torch.autograd.grad(function(x).sum(), x)
    steepest = slopes.abs().max().item()
    if name in ("softplus", "softplus of a layer", "log of sigmoid"):
        steepest = 1.0  # far out
    found = constant(function, torch.randn(1, 4, 3, 3))
    assert steepest * (1 - 1e-9) <= found <= steepest * 1.001


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize("stride", range(1, 5))
@pytest.mark.parametrize("size", range(1, 5))
def test_max_pooling(size, stride, dilation):
    """One value may be the largest of several windows: each of them counts."""

    def pool(x):
        return functional.max_pool2d(x, size, stride, dilation=dilation)

    image = torch.zeros(1, 1, 40, 40)
    reached = 0.0
    for row, column in itertools.product(range(16, 21), repeat=2):
        image.zero_()[..., row, column] = 1.0
        reached = max(reached, pool(image).norm().item())
    found = constant(lambda x: pool(x).mean((2, 3), keepdim=True).expand_as(x), image)
    outputs = pool(image).numel()
    # Mean and expansion have a norm of √(inputs / outputs).
    assert found == pytest.approx(reached * math.sqrt(image.numel() / outputs))


def test_adaptive_max_pooling():
    example = torch.randn(1, 4, 6, 6)

    def pool(size):
        pooled = functional.adaptive_max_pool2d
        return lambda x: functional.interpolate(pooled(x, size), x.shape[-2:])

    assert constant(pool(3), example) == pytest.approx(2)  # each of the values, four times
    with pytest.raises(StabilityError, match="adaptive_max_pool2d"):
        constant(pool(4), example)


def test_what_is_broadcast_counts_as_often_as_it_is_added():
    example = torch.randn(1, 4, 3, 3)

    def mean(x):
        return x.mean((2, 3), keepdim=True)

    assert constant(lambda x: x + mean(x), example) == pytest.approx(2)
    assert constant(lambda x: torch.maximum(0.01 * x, mean(x)), example) == pytest.approx(1.01)


def test_factors_of_sums():
    example = torch.randn(1, 4, 3, 3)
    fixed = torch.randn(1, 4, 3, 3)
    alpha = torch.add
    assert constant(lambda x: alpha(fixed, x.relu(), alpha=3), example) == pytest.approx(3)
    assert constant(lambda x: torch.sub(x, x.relu(), alpha=2), example) == pytest.approx(3)
    assert constant(lambda x: alpha(x, x.relu(), alpha=0), example) == pytest.approx(1)


NORMS = {
    "layer norm": nn.LayerNorm([4, 3, 3], eps=1e-2),
    "group norm": nn.GroupNorm(2, 4, eps=1e-2),
    "instance norm": nn.GroupNorm(4, 4, eps=1e-2),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_by_statistics_are_steepest_where_the_input_is_flat(name):
    normed = NORMS[name].to(torch.get_default_dtype())
    nn.init.constant_(normed.weight, -1.7)
    flat = torch.zeros(1, 4, 3, 3)
    reached = norm(jacobian(normed, flat))
    assert constant(normed, flat) == pytest.approx(reached, rel=1e-9)
    for _ in range(20):
        assert norm(jacobian(normed, torch.randn(1, 4, 3, 3))) < reached


def test_sums_concatenations_and_softmax():
    convs = [nn.Conv2d(4, width, 3, padding=1) for width in (4, 4, 2, 2)]
    example = torch.randn(1, 4, 5, 5)
    norms = [norm(matrix(conv, example)) for conv in convs]
    a, b, c, d = convs
    assert constant(lambda x: a(x) - b(x), example) == pytest.approx(norms[0] + norms[1])
    alpha = constant(lambda x: torch.add(a(x), b(x), alpha=-3), example)
    assert alpha == pytest.approx(norms[0] + 3 * norms[1])
    both = constant(lambda x: torch.cat([c(x), d(x)], 1), example)
    assert both == pytest.approx(math.hypot(norms[2], norms[3]))
    assert constant(lambda x: a(x) + a(x), example) == pytest.approx(2 * norms[0])
    assert constant(lambda x: a(x).softmax(1), example) == pytest.approx(norms[0])
    assert constant(lambda x: x + x, example) == pytest.approx(2)


def volumes(x):
    return x.unflatten(1, (2, 2))


PADDING = {
    "replicate": nn.ReplicationPad2d((1, 2, 0, 3)),
    "replicate rows": lambda x: functional.pad(x.flatten(2), (1, 2), "replicate"),
    "replicate volumes": lambda x: functional.pad(volumes(x), (1, 1, 0, 2, 1, 0), "replicate"),
    "reflect": nn.ReflectionPad2d((1, 2, 0, 3)),
    "reflect rows": lambda x: functional.pad(x.flatten(2), (1, 2), "reflect"),
    "reflect volumes": lambda x: functional.pad(volumes(x), (1, 1, 0, 2, 1, 0), "reflect"),
}


@pytest.mark.parametrize("name", PADDING)
def test_padding(name):
    example = torch.randn(1, 4, 4, 4)
    weight = torch.randn(example.numel(), PADDING[name](example).numel())

    def run(x):
        return functional.linear(PADDING[name](x).flatten(1), weight).view_as(x)

    assert constant(run, example) == pytest.approx(norm(matrix(run, example)), rel=1e-9)


@pytest.mark.parametrize("kind", [nn.PixelShuffle, nn.PixelUnshuffle, nn.ChannelShuffle])
def test_shuffling(kind):
    def run(x):
        return kind(2)(x).view_as(x)

    example = torch.randn(1, 4, 4, 4)
    assert constant(run, example) == 1 == pytest.approx(norm(matrix(run, example)))


def test_affine_operations_that_follow_each_other_are_one_operator():
    conv, batch_norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4).eval()
    batch_norm.weight.data.normal_()
    batch_norm.running_var.uniform_(0.1, 3)
    example = torch.randn(1, 4, 5, 5)

    def run(x):
        return (batch_norm(conv(x)) * 0.3 + 1).permute(0, 1, 3, 2)[..., 1:].mean(-1, keepdim=True)

    expected = norm(matrix(run, example))
    assert constant(lambda x: run(x).expand_as(x), example) == pytest.approx(
        expected * math.sqrt(5), rel=1e-9
    )


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(),
        lambda x: x / (1 + x.abs()),
        lambda x: x @ x,
        lambda x: functional.batch_norm(x, None, None, training=True),
        torch.exp,
        nn.Softplus(threshold=1.0),
        nn.RMSNorm([4, 4, 4]),
    ],
)
def test_what_has_no_constant_is_named(function):
    with pytest.raises(StabilityError, match="has no Lipschitz constant"):
        constant(function, torch.randn(1, 4, 4, 4))
