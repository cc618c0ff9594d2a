"""What surrounds a measurement, and what it leaves as it was."""

import threading

import pytest
import torch
from explicit import make, two_layers
from torch import nn

from timestepper.errors import NoBranchError, StabilityError
from timestepper.stability import (
    StabilityPenalty,
    gradient_flow,
    log10_bound,
    measure_stability,
    trajectory,
)

LABELS = torch.tensor([0, 2])
MEASUREMENTS = {
    "measure_stability": lambda network, x: measure_stability(network, x).worst,
    "log10_bound": log10_bound,
    "trajectory": lambda network, x: [state.tolist() for state in trajectory(network, x).states],
    "gradient_flow": lambda network, x: gradient_flow(network, x, LABELS).norms,
    "gradient_flow of h": lambda network, x: gradient_flow(network, x, LABELS, step_size=0.5).norms,
    "StabilityPenalty": lambda network, x: StabilityPenalty(network, x[:1])().item(),
}


@pytest.fixture(params=MEASUREMENTS)
def measure(request):
    return MEASUREMENTS[request.param]


@pytest.fixture
def inputs():
    return torch.randn(2, 5)


class Keeps(nn.Module):
    """Its pass counts itself, keeps its features and writes into its input."""

    def __init__(self, network):
        super().__init__()
        self.network = network
        self.register_buffer("calls", torch.zeros(()))
        self.kept = None

    def forward(self, x):
        self.calls += 1
        x.relu_()
        self.kept = self.network(x)
        return self.kept


def test_autocast_and_inference_mode_change_nothing(measure, inputs):
    network, inputs = make(two_layers, 2, 4).float(), inputs.float()
    expected = measure(network, inputs)
    with torch.autocast("cpu", torch.bfloat16):
        assert measure(network, inputs) == expected
    with torch.inference_mode():
        assert measure(network, inputs) == expected
        assert measure(network, inputs.clone()) == expected


@pytest.mark.parametrize("name", [n for n in MEASUREMENTS if n != "gradient_flow of h"])
def test_default_devices_change_nothing(name, inputs):
    network, inputs = make(two_layers, 2, 4).float(), inputs.float()
    expected = MEASUREMENTS[name](network, inputs)
    with torch.device("meta"):  # stands for torch.set_default_device("cuda")
        assert MEASUREMENTS[name](network, inputs) == expected


def test_nothing_to_measure_at(measure, inputs):
    with pytest.raises(StabilityError, match="no input was given"):
        measure(make(two_layers, 2, 4), inputs[:0])


def test_networks_that_write_stay_as_they_are(measure, inputs):
    network = Keeps(make(two_layers, 2, 4)).eval()
    before = inputs.clone()
    measure(network, inputs)
    assert network.calls == 0
    assert network.kept is None
    assert torch.equal(inputs, before)


def test_networks_that_keep_features_with_their_graph(measure, inputs):
    plain = make(two_layers, 2, 4)
    network = Keeps(plain).eval()
    kept = network(inputs)
    assert kept.requires_grad
    assert measure(network, inputs) == measure(plain, inputs)
    assert network.kept is kept


def test_networks_that_can_not_be_copied(measure, inputs):
    network = make(two_layers, 2, 4)
    network.lock = threading.Lock()
    with pytest.raises(StabilityError, match=r"^the network can't be copied: cannot pickle"):
        measure(network, inputs)


@pytest.mark.parametrize("normalise", [nn.utils.weight_norm, nn.utils.spectral_norm])
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_weights_that_hooks_normalise_are_refused_by_name(normalise, measure, inputs):
    network = make(two_layers, 1, 4)
    normalise(network.branches[0][2])
    network(inputs)
    with pytest.raises(NoBranchError, match="a hook"):
        measure(network.eval(), inputs)
