"""Original (v1) and today's (v1.5) bottlenecks, by name."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

import timestepper
from timestepper.errors import ConfigurationError
from timestepper.networks import create, list_networks, split_version

# Short networks are quick; timm's last norms start at zero, which would hide the branches.
SHORT = {"layers": (1, 2, 1, 1), "zero_init_last": False}


def gmac(network, size=224):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize(
    ("name", "expected"), [("resnet50_v1", 3.858), ("resnet50_v1.5", 4.089), ("resnet50", 4.089)]
)
def test_operations_of_both_versions(name, expected):
    assert gmac(create(name)) == pytest.approx(expected, abs=5e-4)


def test_as_many_operations_as_an_original_of_timms():
    """timm's copy of the original SENet-50 has the stride in the first convolution, too."""
    reference = timm.create_model("legacy_seresnet50")
    assert gmac(create("seresnet50_v1"), 64) == gmac(reference, 64)
    assert gmac(create("seresnet50"), 64) > gmac(reference, 64)


def test_a_strided_block_by_hand():
    torch.manual_seed(0)
    block = create("resnet50_v1", **SHORT).double().eval().layer2[0]
    with torch.no_grad():
        for norm in (block.bn1, block.bn2, block.bn3, block.downsample[1]):
            norm.running_mean.normal_()
            norm.weight.normal_()
            norm.bias.normal_()
    x = torch.randn(2, 256, 9, 9, dtype=torch.float64)
    thinned = x[:, :, ::2, ::2]
    y = block.bn1(torch.einsum("oi,nihw->nohw", block.conv1.weight[:, :, 0, 0], thinned)).relu()
    y = block.bn2(functional.conv2d(y, block.conv2.weight, stride=1, padding=1)).relu()
    y = block.bn3(torch.einsum("oi,nihw->nohw", block.conv3.weight[:, :, 0, 0], y))
    weight, norm = block.downsample[0].weight[:, :, 0, 0], block.downsample[1]
    expected = (y + norm(torch.einsum("oi,nihw->nohw", weight, thinned))).relu()
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["resnet50", "resnext50_32x4d", "seresnet50"])
def test_state_dicts_are_interchangeable(name):
    plain, original = timm.create_model(name, **SHORT), create(f"{name}_v1", **SHORT)
    original.load_state_dict(plain.state_dict())
    again = create(f"{name}_v1.5", **SHORT)
    again.load_state_dict(original.state_dict())
    x = torch.randn(1, 3, 64, 64)
    outputs = [network.eval()(x) for network in (plain, original, again)]
    assert torch.equal(outputs[0], outputs[2])
    assert not torch.equal(outputs[0], outputs[1])


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("resnet50_v1", 25.56),
        ("resnext50_32x4d_v1", 25.03),
        ("seresnet50_v1", 28.09),
        ("seresnet101_v1", 49.33),
    ],
)
def test_parameters(name, millions):
    assert round(sum(p.numel() for p in create(name).parameters()) / 1e6, 2) == millions


@pytest.mark.parametrize("name", ["resnet50_v1", "seresnet50_v1"])
def test_attach_and_fold(name):
    network = create(name, **SHORT).eval()
    keys = list(network.state_dict())
    timestepper.attach(network)
    assert len(timestepper.step_sizes(network)) == 5
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        stepped = network(x)
        folded = timestepper.fold(copy.deepcopy(network))
        assert torch.equal(folded(x), stepped)
    assert list(folded.state_dict()) == keys
    assert folded.layer2[0].conv1.stride == (2, 2)
    assert folded.layer2[0].conv2.stride == (1, 1)


def test_options_go_to_the_network():
    network = create("timm/resnet50_v1", num_classes=7, in_channels=1)
    assert network(torch.randn(2, 1, 64, 64)).shape == (2, 7)


def test_listed():
    names = list_networks()
    for family in ("resnet50", "resnet101", "resnext101_32x4d", "seresnet50", "seresnet101"):
        assert f"timm/{family}_v1" in names
        assert f"timm/{family}_v1.5" in names


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("resnet50_v1", ("resnet50", "v1")),
        ("timm/seresnet50_v1.5", ("timm/seresnet50", "v1.5")),
        ("resnet50.a1_in1k", ("resnet50.a1_in1k", None)),
        ("cifar_resnet56", ("cifar_resnet56", None)),
    ],
)
def test_split_version(name, parts):
    assert split_version(name) == parts


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet18_v1", "resnet18 is not made of timm's ResNet bottlenecks"),
        ("cifar_resnet20_v1", "cifar_resnet20 is not made of timm's ResNet bottlenecks"),
        ("torchvision/resnet50_v1.5", "which alone have a v1.5; leave '_v1.5' out"),
        ("resnetaa50_v1", "resnetaa50 has bottlenecks with the stride in neither"),
        ("resnet51_v1", "did you mean 'resnet50_v1'"),
    ],
)
def test_networks_without_versions(name, said):
    with pytest.raises(ConfigurationError) as error:
        create(name)
    message = str(error.value)
    assert message.startswith(f"no network is called '{name}'")
    assert said in message
    assert "\n" not in message
