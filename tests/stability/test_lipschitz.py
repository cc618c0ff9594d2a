"""Lipschitz constants: each operation's own, and Proposition 1 on many random networks."""

import itertools
import math
import random

import pytest
import torch
from dense_matrices import jacobian, matrix, norm
from torch import nn
from torch.nn import functional

import timestepper
from timestepper.errors import StabilityError
from timestepper.networks import create
from timestepper.stability import unroll
from timestepper.stability.amplification import Amplification
from timestepper.stability.lipschitz import Lipschitz
from timestepper.stepping import Branch


class Function(nn.Module):
    """A branch x + conv(f(x)): the convolution, the identity, lets the branch be found."""

    def __init__(self, function, channels=4):
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        nn.init.dirac_(self.conv.weight)

    def forward(self, x):
        return x + self.conv(self.function(x))


def constant(function, example):
    """Compute the Lipschitz constant that our rules give a function."""
    network = Function(function, example.shape[1]).eval()
    branch = Branch("", "stage", ("conv",), ("conv",))
    unrolled = unroll(network, example, [branch])
    (step,) = unrolled.steps
    values = unrolled.evaluate(example)
    return Lipschitz(unrolled, values).log_constant(step.start, step.end).exp().item()


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
    if name == "softplus":
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
        nn.RMSNorm([4, 4, 4]),
    ],
)
def test_what_has_no_constant_is_named(function):
    with pytest.raises(StabilityError, match="has no Lipschitz constant"):
        constant(function, torch.randn(1, 4, 4, 4))


# Proposition 1

ACTIVATIONS = [
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Identity,
    nn.Hardswish,
    nn.ReLU6,
]


def batch_norm(width):
    module = nn.BatchNorm2d(width)
    nn.init.normal_(module.weight)
    nn.init.normal_(module.bias)
    module.running_mean.normal_()
    module.running_var.uniform_(0.2, 3)
    return module


class WithMean(nn.Module):
    """x + β·mean(x): what is added is broadcast."""

    def forward(self, x):
        return torch.sub(x, x.mean((2, 3), keepdim=True).tanh(), alpha=-1.5)


class RandomBlock(nn.Module):
    """y = a(s(x) + f(x)), everything by chance."""

    def __init__(self, choose, width, out):
        super().__init__()
        stride = choose.choice([1, 1, 2])
        first, last = choose.choice([1, 3, 5]), choose.choice([1, 3])
        groups = choose.choice([1, 2])
        layers = [
            nn.Conv2d(width, out, first, stride, first // 2, groups=groups),
            choose.choice([batch_norm, lambda w: nn.Identity()])(out),
            choose.choice(ACTIVATIONS)(),
        ]
        if choose.random() < 0.2:
            size, dilation = choose.choice([(3, 1), (2, 2)])
            layers.append(nn.MaxPool2d(size, 1, 1, dilation))
        if choose.random() < 0.2:
            layers.append(WithMean())
        if choose.random() < 0.2:
            layers.append(nn.GroupNorm(2, out, eps=0.1))
        padding = choose.choice(["zeros", "reflect"])
        layers.append(nn.Conv2d(out, out, last, 1, last // 2, padding_mode=padding))
        if choose.random() < 0.5:
            layers.append(batch_norm(out))
        if choose.random() < 0.3:
            layers = [batch_norm(width), choose.choice(ACTIVATIONS)(), *layers]
        self.body = nn.Sequential(*layers)
        same = stride == 1 and width == out
        self.shortcut = nn.Identity() if same else nn.Conv2d(width, out, 1, stride)
        self.activation = choose.choice(ACTIVATIONS)()

    def forward(self, x):
        return self.activation(self.shortcut(x) + self.body(x))


class RandomNetwork(nn.Module):
    def __init__(self, seed):
        super().__init__()
        choose = random.Random(seed)
        torch.manual_seed(seed)
        widths = [choose.choice([2, 4, 6])]
        for _ in range(choose.randint(1, 5)):
            widths.append(widths[-1] if choose.random() < 0.6 else choose.choice([2, 4, 6]))
        self.stem = nn.Conv2d(2, widths[0], 3, padding=1)
        self.blocks = nn.Sequential(
            *(RandomBlock(choose, *pair) for pair in itertools.pairwise(widths))
        )
        self.head = nn.Linear(widths[-1], 3)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


@pytest.mark.parametrize("seed", range(60))
def test_perturbations_never_pass_the_bound(seed):
    network = RandomNetwork(seed).eval()
    images = torch.randn(1, 2, 24, 24)
    try:
        timestepper.attach(network, ["indp", "lstm", 0.3][seed % 3], example_input=images)
        for parameter in network.time_stepping.parameters():
            nn.init.normal_(parameter, std=2.0)
    except timestepper.errors.FoldError:
        pass  # A branch that ends in an activation is measured too.
    unrolled = unroll(network, images)
    values = unrolled.evaluate(images)
    constants = Lipschitz(unrolled, values)
    states = [step.state for step in unrolled.steps]
    bounds = [constants.log_constant(unrolled.input_state, s).exp().item() for s in states]
    generator = torch.Generator().manual_seed(seed)
    for epsilon in (1e-6, 1e-2, 1, 100):
        growth = Amplification(unrolled, values, unrolled.input_state, states, epsilon)
        for measured in (*growth.random(5, generator), growth.worst()):
            for one, bound in zip(measured, bounds, strict=True):
                assert 0 <= one <= bound * (1 + 1e-6)
    for members in unrolled.stages.values():
        start, end = members[0].start, members[-1].state
        bound = constants.log_constant(start, end).exp().item()
        growth = Amplification(unrolled, values, start, [end], 1e-3)
        assert growth.worst()[-1] <= bound * (1 + 1e-6)


def test_bound_is_the_product_of_the_steps_factors():
    network = create("cifar_resnet8", num_classes=10).eval().double()
    images = torch.randn(1, 3, 8, 8)
    unrolled = unroll(network, images)
    values = unrolled.evaluate(images)
    constants = Lipschitz(unrolled, values)
    product = 1.0
    for step in unrolled.steps:
        branch = matrix_product(unrolled, values, step)
        shortcut = norm(
            matrix(unrolled.function(values, step.start, step.shortcut), values[step.start])
        )
        product *= shortcut + branch
    bound = constants.log_constant(unrolled.input_state, unrolled.final_state).exp().item()
    assert bound == pytest.approx(product, rel=1e-6)


def matrix_product(unrolled, values, step):
    """Multiply the norms of a basic block's two convolutions with their norms, written out."""
    block = unrolled.network.get_submodule(step.branch.name)
    first = nn.Sequential(block.conv1, block.bn1)
    second = nn.Sequential(block.conv2, block.bn2)
    between = first(values[step.start])
    return norm(matrix(first, values[step.start])) * norm(matrix(second, between))


@pytest.mark.parametrize(("rate", "h", "depth"), [(-4.0, 0.1, 6), (-4.0, 0.9, 6), (2.0, 0.5, 4)])
def test_linear_test_equation(rate, h, depth):
    """dy/dt = λy: perturbations grow as |1 + hλ|^N (Eq. 3), the bound is (1 + h|λ|)^N (Eq. 7)."""
    network = nn.Sequential(*(Function(nn.Identity(), 2) for _ in range(depth))).eval()
    for block in network:
        block.conv.weight.data *= rate
    images = torch.randn(1, 2, 4, 4)
    timestepper.attach(network, h, example_input=images)
    unrolled = unroll(network, images)
    values = unrolled.evaluate(images)
    start, end = unrolled.input_state, unrolled.final_state
    found = Lipschitz(unrolled, values).log_constant(start, end).exp().item()
    assert found == pytest.approx((1 + h * abs(rate)) ** depth, rel=1e-9)
    growth = Amplification(unrolled, values, start, [end], 1e-3)
    expected = pytest.approx(abs(1 + h * rate) ** depth, rel=1e-6)
    assert growth.worst()[-1] == expected
    assert growth.random(3, torch.Generator()) == expected


def test_vector_step_sizes_are_diagonal_operators():
    """Δt of 1 where the weights are small and small where they are large: not the maximum alone."""
    network = Function(nn.Identity(), 2).eval()
    network.conv.weight.data = torch.tensor([[0.5, 0.0], [0.0, 100.0]])[:, :, None, None]
    images = torch.randn(1, 2, 4, 4)

    class Steps(nn.Module):
        def forward(self, averaged):
            return torch.tensor([[1.0, 0.01]])

    branch = Branch("", "stage", ("conv",), ("conv",))
    timestepper.attach(network, lambda *sizes: Steps(), branches=[branch])
    unrolled = unroll(network, images)
    found = Lipschitz(unrolled, unrolled.evaluate(images))
    bound = found.log_constant(unrolled.input_state, unrolled.final_state).exp().item()
    assert bound == pytest.approx(1 + 1.0, rel=1e-9)


def test_very_deep_networks_do_not_overflow():
    block = Function(nn.Identity(), 1)
    block.conv.weight.data *= 1e6
    network = nn.Sequential(*(block for _ in range(80))).eval()
    images = torch.zeros(1, 1, 1, 1)
    unrolled = unroll(network, images)
    assert len(unrolled.steps) == 80
    found = Lipschitz(unrolled, unrolled.evaluate(images))
    logarithm = found.log_constant(unrolled.input_state, unrolled.final_state).item()
    assert logarithm / math.log(10) == pytest.approx(80 * math.log10(1 + 1e6))
