"""The record of a network's stability, field by field against independent computations."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from dense_matrices import jacobian, matrix, norm
from torch import nn

import timestepper
from timestepper.errors import StabilityError
from timestepper.networks import create
from timestepper.stability import measure_stability


@pytest.fixture
def network():
    """Make a network of which only the last step's norms are written down below."""
    network = create("cifar_resnet8", num_classes=10)
    timestepper.attach(network, "indp", example_input=torch.randn(1, 3, 8, 8))
    for parameter in network.time_stepping.parameters():
        nn.init.normal_(parameter)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
    return network.eval()


def test_a_step_against_matrices_written_out(network):
    images = torch.randn(2, 3, 8, 8)
    measured = measure_stability(network, images)
    assert [step.name for step in measured.steps] == ["layer1.0", "layer2.0", "layer3.0"]
    step = measured.steps[0]
    block = copy.deepcopy(network).layer1[0]
    sizes = timestepper.step_sizes(network)["layer1.0"]
    assert step.step_size == pytest.approx(sizes.mean().item())
    assert step.smallest_step_size == pytest.approx(sizes.min().item())
    assert step.largest_step_size == pytest.approx(sizes.max().item())

    states = network.bn1(network.conv1(images)).relu()
    for hooks in [m._forward_hooks for m in block.modules()]:
        hooks.clear()
    for hooks in [m._forward_pre_hooks for m in block.modules()]:
        hooks.clear()
    first = nn.Sequential(block.conv1, block.bn1)
    second = nn.Sequential(block.conv2, block.bn2)
    norms = [norm(matrix(part, states[:1])) for part in (first, second)]
    assert step.lipschitz == pytest.approx(math.prod(norms), rel=1e-8)
    scaled = norm(matrix(lambda x: second(x) * sizes[:, None, None], states[:1]))
    assert step.factor == pytest.approx(1 + norms[0] * scaled, rel=1e-8)
    assert 10**step.bound == pytest.approx(step.factor, rel=1e-8)

    def branch(state):
        return second(first(state).relu()) * sizes[:, None, None]

    dense = [jacobian(branch, state[None]).detach() for state in states]
    assert step.jacobian_norm == pytest.approx(max(map(norm, dense)), rel=1e-2)
    spectra = [np.linalg.eigvals((torch.eye(len(one)) + one).numpy()) for one in dense]
    radius = max(np.abs(spectrum).max() for spectrum in spectra)
    assert abs(step.eigenvalues[0]) == pytest.approx(radius, rel=1e-2)
    assert measured.steps[1].eigenvalues == ()  # its shortcut projects


def test_stages_and_the_whole(network):
    measured = measure_stability(network, torch.randn(2, 3, 8, 8), directions=3)
    assert [stage.name for stage in measured.stages] == ["layer1", "layer2", "layer3"]
    times = timestepper.evolution_time(network)
    for stage in measured.stages:
        assert stage.evolution_time == pytest.approx(times[stage.name])
        assert 0 < stage.random <= stage.worst * 1.01
        assert stage.worst <= 10**stage.bound
    assert measured.evolution_time == pytest.approx(sum(times.values()))
    assert measured.bound == pytest.approx(sum(stage.bound for stage in measured.stages))
    assert measured.bound == pytest.approx(sum(math.log10(step.factor) for step in measured.steps))
    assert measured.random < measured.worst < 10**measured.bound
    assert (measured.images, measured.no_bound) == (2, ())
    last = measured.steps[-1]
    assert (measured.bound, measured.random, measured.worst) == (
        last.bound,
        last.random,
        last.worst,
    )


def test_folding_changes_nothing_but_the_step_sizes(network):
    images = torch.randn(1, 3, 8, 8)
    before = copy.deepcopy(network.state_dict())
    attached = measure_stability(network, images, seed=5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    folded = measure_stability(timestepper.fold(copy.deepcopy(network)), images, seed=5)
    assert (attached.bound, attached.random, attached.worst) == (
        folded.bound,
        folded.random,
        folded.worst,
    )
    assert {step.step_size for step in folded.steps} == {1.0}
    for one, other in zip(attached.steps, folded.steps, strict=True):
        assert one.factor == other.factor
        assert one.lipschitz != pytest.approx(other.lipschitz)


def test_worst_direction_is_the_networks_leading_singular_vector(network):
    images = torch.randn(1, 3, 8, 8)
    measured = measure_stability(network, images, epsilon=1e-7)
    stem = nn.Sequential(network.conv1, network.bn1, nn.ReLU())

    def rest(state):
        return network.layer3(network.layer2(network.layer1(state)))

    dense = jacobian(rest, stem(images).detach())
    assert measured.worst == pytest.approx(norm(dense), rel=1e-2)


def test_json(network):
    measured = measure_stability(network, torch.randn(1, 3, 8, 8))
    read = json.loads(json.dumps(measured.to_dict(), allow_nan=False))
    assert read["bound"] == measured.bound
    assert len(read["steps"]) == 3
    value = measured.steps[0].eigenvalues[0]
    assert read["steps"][0]["eigenvalues"][0] == [value.real, value.imag]


def test_branches_without_a_bound_are_measured_all_the_same():
    network = create("timm/seresnet18", num_classes=4).eval()
    measured = measure_stability(network, torch.randn(1, 3, 32, 32), directions=1)
    assert measured.bound is None
    assert {step.factor for step in measured.steps} == {None}
    assert "mul in layer1.0.se has no Lipschitz constant" in measured.no_bound[0]
    assert measured.worst > measured.random > 0


def test_networks_without_normalisation():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return x + self.conv(x.tanh())

    network = nn.Sequential(Block(), Block(), nn.Flatten()).eval()
    measured = measure_stability(network, torch.randn(1, 3, 6, 6))
    assert measured.worst <= 10**measured.bound


def test_step_whose_branch_is_zero():
    """As where the last norm's weight starts at zero."""
    network = create("timm/resnet10t", num_classes=3).eval()
    nn.init.zeros_(network.layer1[0].bn2.weight)
    step = measure_stability(network, torch.randn(1, 3, 32, 32), directions=1).steps[0]
    assert (step.lipschitz, step.jacobian_norm) == (0.0, 0.0)


def test_growth_of_nothing_and_of_more_than_a_float_holds():
    """A transition of zeros ends every perturbation; large weights make the bound overflow."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Body(3, scale) for scale in (1.0, 1e120))
            self.between = nn.Conv2d(3, 3, 1, bias=False)

        def forward(self, x):
            x = self.between(self.blocks[0](x).relu())
            return self.blocks[1](x).tanh()

    class Body(nn.Module):
        def __init__(self, width, scale):
            super().__init__()
            parts = [nn.Conv2d(width, width, 1, bias=False) for _ in range(3)]
            for part in parts:
                nn.init.dirac_(part.weight)
                part.weight.data *= scale
            self.body = nn.Sequential(parts[0], nn.ReLU(), parts[1], nn.ReLU(), parts[2])

        def forward(self, x):
            return x + self.body(x)

    network = Net().eval()
    nn.init.zeros_(network.between.weight)
    measured = measure_stability(network, torch.randn(1, 3, 6, 6), directions=1)
    assert measured.bound == -math.inf
    assert measured.worst == 0
    assert measured.steps[1].factor == math.inf
    json.dumps(measured.to_dict(), allow_nan=False)


def test_perturbations_that_overflow_grow_infinitely():
    """The perturbed pass makes ∞ − ∞; without the perturbation nothing overflows."""

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2, bias=False)
            self.layer.weight.data = torch.tensor([[1e307, -1e307], [-1e307, 1e307]])

        def forward(self, x):
            return self.layer(10 * x)

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = Body(), nn.Linear(2, 2)

        def forward(self, x):
            return self.head((x + self.body(x)).tanh())

    measured = measure_stability(Net().eval(), torch.full((1, 2), 1e-3), epsilon=1e6)
    assert measured.random == measured.worst == math.inf
    assert json.loads(json.dumps(measured.to_dict(), allow_nan=False))["random"] is None


def test_bad_input(network):
    images = torch.randn(1, 3, 8, 8)
    for wrong, message in (
        (images[:0], "no input was given"),
        (images.half(), r"torch\.float16 are too coarse"),
        (images * float("nan"), "NaN or infinite"),
    ):
        with pytest.raises(StabilityError, match=message):
            measure_stability(network, wrong)
    for epsilon in (0, 1e-9, 1e38, math.nan):
        with pytest.raises(StabilityError, match="epsilon must be from"):
            measure_stability(network, images, epsilon=epsilon)
    with pytest.raises(StabilityError, match="directions must be at least 1"):
        measure_stability(network, images, directions=0)
    with pytest.raises(StabilityError, match=r"take inputs of shape \(1, 5, 8, 8\): Given"):
        measure_stability(network, torch.randn(1, 5, 8, 8))
    with pytest.raises(StabilityError, match="training mode"):
        measure_stability(network.train(), images)
