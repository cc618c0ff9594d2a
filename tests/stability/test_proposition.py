"""Proposition 1 on many random networks, and its bound against matrices written out."""

import itertools
import math
import random

import pytest
import torch
from branch_constants import Function
from dense_matrices import matrix, norm
from torch import nn

import timestepper
from timestepper.networks import create
from timestepper.stability import unroll
from timestepper.stability.amplification import Amplification
from timestepper.stability.lipschitz import Lipschitz
from timestepper.stepping import Branch

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
