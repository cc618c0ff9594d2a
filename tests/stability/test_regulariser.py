"""The stability penalty against dense matrices, their singular values and finite differences."""

import copy
import math

import pytest
import timm
import torch
from torch import nn
from torch.nn.functional import conv2d

import timestepper
from timestepper.errors import ConfigurationError, StabilityError, StateError
from timestepper.stability import StabilityPenalty, unroll
from timestepper.stability.lipschitz import Lipschitz

SIDE = 4
CONTROLLERS = {"plain": None, "lstm": "lstm", "indp": "indp"}
KINDS = ("bound", "spectral")


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x):
        inner = self.bn1(self.conv1(x)).relu()
        return (x + self.bn2(self.conv2(inner))).relu()


class Small(nn.Module):
    def __init__(self, channels=2):
        super().__init__()
        self.stem = nn.Conv2d(1, channels, 1)
        self.blocks = nn.Sequential(Block(channels), Block(channels))
        self.head = nn.Linear(channels, 2)

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def make_small(controller=None, seed=0):
    """Build a network of float64 in which nothing stays at its initial value, attached or not."""
    torch.manual_seed(seed)
    network = Small().double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor)
            nn.init.uniform_(module.running_var, 0.5, 2)
    if controller is not None:
        timestepper.attach(network, controller, example_input=example(), reduction=1)
        for parameter in network.time_stepping.parameters():
            nn.init.normal_(parameter)
    return network


def example():
    return torch.zeros(1, 1, SIDE, SIDE, dtype=torch.float64)


def written_out(conv, norm, factors):
    """Write factors ⊗ norm(conv(·)) without what it adds as a matrix."""
    channels = conv.in_channels
    basis = torch.eye(channels * SIDE**2, dtype=torch.float64).view(-1, channels, SIDE, SIDE)
    scale = factors * norm.weight / (norm.running_var + norm.eps).sqrt()
    rows = conv2d(basis, conv.weight, padding=1) * scale.view(-1, 1, 1)
    return rows.flatten(1)


@torch.no_grad()
def reference(network, kind):
    """Compute Σ log(1 + ‖A_2‖₂ ‖A_1‖₂), or half of Σ ‖A‖₂², from dense matrices."""
    sizes = {}
    if kind == "bound" and hasattr(network, "time_stepping"):
        sizes = timestepper.step_sizes(network)
    value = 0.0
    for number, block in enumerate(network.blocks):
        ends = sizes.get(f"blocks.{number}", torch.ones(2))
        runs = ((block.conv1, block.bn1, torch.ones(2)), (block.conv2, block.bn2, ends))
        norms = [torch.linalg.svdvals(written_out(*run))[0].item() for run in runs]
        if kind == "bound":
            value += math.log1p(math.prod(norms))
        else:
            value += sum(norm**2 for norm in norms) / 2
    return value


def converged(penalty):
    """Iterate until the singular vectors stand still."""
    for _ in range(5000):
        before = penalty.vectors
        value = penalty()
        moved = (v - w for v, w in zip(penalty.vectors, before, strict=True))
        if max(difference.abs().max().item() for difference in moved) < 1e-12:
            return value
    raise AssertionError("the power iteration does not converge")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("controller", CONTROLLERS.values(), ids=CONTROLLERS)
def test_value_and_gradient_are_those_of_dense_matrices(controller, kind):
    network = make_small(controller)
    value = converged(StabilityPenalty(network, example(), kind))
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(reference(network, kind), rel=1e-10)
    value.backward()
    # Running statistics are taken as they are, so shifts change nothing.
    for name, parameter in network.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        expected = differences(network, parameter, kind)
        assert torch.allclose(gradient, expected, rtol=1e-6, atol=1e-8), name
        wanted = name.startswith(("blocks", "time_stepping")) and not name.endswith("bias")
        if name.startswith("time_stepping"):
            wanted = kind == "bound"
        assert bool(expected.any()) >= wanted


def differences(network, parameter, kind, width=1e-5):
    """Differentiate the reference by central differences."""
    result = torch.zeros_like(parameter)
    flat, values = result.view(-1), parameter.data.view(-1)
    for place in range(len(values)):
        before = values[place].item()
        values[place] = before + width
        above = reference(network, kind)
        values[place] = before - width
        below = reference(network, kind)
        values[place] = before
        flat[place] = (above - below) / (2 * width)
    return result


@pytest.mark.parametrize("kind", KINDS)
def test_one_iteration_for_each_step_follows_a_network_in_training(kind):
    network = make_small("lstm").eval()
    penalty = StabilityPenalty(network, example(), kind)
    optimizer = torch.optim.SGD(network.parameters(), lr=3e-4, momentum=0.9)
    random = torch.Generator().manual_seed(1)
    first = reference(network, kind)
    for _ in range(200):
        value = penalty()
        exact = reference(network, kind)
        # Never above; below by more only while two singular values change places.
        assert 0.95 * exact < value.item() <= exact * (1 + 1e-12)
        images = torch.randn(16, 1, SIDE, SIDE, generator=random, dtype=torch.float64)
        loss = network(images).square().mean() + 0.1 * value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    last = reference(network, kind)
    assert last < 0.9 * first
    assert converged(penalty).item() == pytest.approx(last, rel=1e-10)


def test_statistics_are_those_before_a_forward_pass_that_changes_them():
    network = make_small("indp")
    expected = torch.autograd.grad(
        StabilityPenalty(network, example())(), network.blocks[0].bn1.weight
    )
    value = StabilityPenalty(network, example())()
    network.train()(torch.randn(8, 1, SIDE, SIDE, dtype=torch.float64))
    found = torch.autograd.grad(value, network.blocks[0].bn1.weight)
    assert torch.equal(found[0], expected[0])


def test_the_network_stays_as_it_is():
    network = make_small("lstm").train()
    network.blocks[1].eval()
    modes = [module.training for module in network.modules()]
    before = copy.deepcopy(network.state_dict())
    StabilityPenalty(network, example())()
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert list(network.state_dict()) == list(before)


def test_low_precision_does_not_reach_the_penalty():
    network = make_small("lstm").float()
    expected = StabilityPenalty(network, example().float())()
    penalty = StabilityPenalty(network, example().float())
    with torch.autocast("cpu", torch.bfloat16):
        value = penalty()
    assert value.dtype == torch.float32
    assert value.item() == expected.item()


def test_a_branch_that_starts_at_zero():
    network = make_small("lstm")
    nn.init.zeros_(network.blocks[0].bn2.weight)
    penalty = StabilityPenalty(network, example())
    value = converged(penalty)
    assert value.item() == pytest.approx(reference(network, "bound"), rel=1e-10)
    value.backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
    nn.init.ones_(network.blocks[0].bn2.weight)
    assert converged(penalty).item() == pytest.approx(reference(network, "bound"), rel=1e-10)


class Grouped(nn.Module):
    """Its branch's norm computes statistics of the features: max |γ| / √ε bounds it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 1, bias=False)
        self.norm = nn.GroupNorm(1, 2, eps=0.25)
        self.end = nn.Conv2d(2, 2, 1, bias=False)

    def forward(self, x):
        return x + self.end(self.norm(self.conv(x)))


def test_a_norm_by_statistics_of_its_input_passes_the_gradient_on():
    torch.manual_seed(0)
    network = Grouped().double()
    network.norm.weight.data = torch.tensor([0.5, -3.0], dtype=torch.float64)
    value = converged(StabilityPenalty(network, example().expand(1, 2, SIDE, SIDE)))
    first, last = (
        torch.linalg.matrix_norm(conv.weight[..., 0, 0], 2) for conv in (network.conv, network.end)
    )
    expected = torch.log1p(first * network.norm.weight.abs().max() / 0.5 * last)
    assert value.item() == pytest.approx(expected.item(), rel=1e-10)
    parameters = [network.conv.weight, network.norm.weight, network.end.weight]
    for found, wanted in zip(
        torch.autograd.grad(value, parameters),
        torch.autograd.grad(expected, parameters),
        strict=True,
    ):
        assert torch.allclose(found, wanted, rtol=1e-8)
        assert found.any()


UNBOUNDED = {"test_vit": "attn", "legacy_seresnet18": "se_module"}


@pytest.mark.parametrize("name", UNBOUNDED)
@pytest.mark.parametrize("kind", KINDS)
def test_branches_without_a_bound_are_refused(name, kind):
    network = timm.create_model(name)
    size = network.default_cfg["input_size"][-1] if "vit" in name else 32
    with pytest.raises(
        StabilityError, match=rf"in .*{UNBOUNDED[name]}.* has no Lipschitz"
    ) as error:
        StabilityPenalty(network, torch.zeros(1, 3, size, size), kind)
    assert "\n" not in str(error.value)


def test_kinds_that_there_are_not():
    with pytest.raises(ConfigurationError, match="penalty 'Spectral'; take 'bound' or 'spectral'"):
        StabilityPenalty(make_small(), example(), "Spectral")


def test_state_goes_on_bit_for_bit():
    network = make_small("lstm")
    one = StabilityPenalty(network, example())
    for _ in range(3):
        one()
    other = StabilityPenalty(network, example())
    other.load_state_dict(copy.deepcopy(one.state_dict()))
    for _ in range(3):
        assert torch.equal(one(), other())


def test_state_of_another_penalty_is_refused():
    network = make_small()
    state = StabilityPenalty(network, example(), "spectral").state_dict()
    with pytest.raises(StateError, match="is that of 'spectral', not 'bound'"):
        StabilityPenalty(network, example()).load_state_dict(state)


def test_state_of_another_image_size_is_refused():
    network = make_small()
    state = StabilityPenalty(network, torch.zeros(1, 1, 6, 6, dtype=torch.float64)).state_dict()
    with pytest.raises(StateError, match="another network or image size"):
        StabilityPenalty(network, example()).load_state_dict(state)


def test_the_bound_is_the_measured_one():
    """Between the first state and the last, where every shortcut is the identity."""
    network = make_small("lstm").eval()
    unrolled = unroll(network, example())
    lipschitz = Lipschitz(unrolled, unrolled.evaluate(example()))
    bound = lipschitz.log_constant(unrolled.input_state, unrolled.final_state)
    assert converged(StabilityPenalty(network, example())).item() == pytest.approx(bound.item())
