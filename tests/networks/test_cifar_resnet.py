from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from timestepper.errors import ConfigurationError
from timestepper.networks import BasicBlock, CifarResNet


def formula(depth: int, classes: int = 10, channels: int = 3) -> int:
    """Parameters by hand: convolutions, two per batch normalisation channel, the classifier."""
    n = (depth - 2) // 6
    convolutions = 9 * channels * 16 + 9 * (
        2 * n * 16**2 + (16 * 32 + (2 * n - 1) * 32**2) + (32 * 64 + (2 * n - 1) * 64**2)
    )
    norms = 2 * (16 + 2 * n * (16 + 32 + 64))
    return convolutions + norms + (64 + 1) * classes


def count(network: nn.Module) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("depth", "millions"), [(8, None), (20, 0.27), (56, 0.85), (110, 1.73), (506, None)]
)
def test_parameters(depth, millions):
    parameters = count(CifarResNet(depth))
    assert parameters == formula(depth)
    if millions is not None:
        assert round(parameters / 1e6, 2) == millions


def test_parameters_with_other_channels_classes_and_projection():
    assert count(CifarResNet(20, 100, 1)) == formula(20, 100, 1)
    projections = 16 * 32 + 2 * 32 + 32 * 64 + 2 * 64
    assert count(CifarResNet(20, shortcut="project")) == formula(20) + projections


@pytest.mark.parametrize("shortcut", ["pad", "project"])
@pytest.mark.parametrize("side", [8, 28, 32, 33])
def test_any_image_size(shortcut, side):
    network = CifarResNet(14, num_classes=7, in_channels=1, shortcut=shortcut)
    assert network(torch.randn(2, 1, side, side)).shape == (2, 7)


def test_same_function_as_torchvision_blocks():
    """With projections the network is torchvision's BasicBlock stacked."""
    from torchvision.models.resnet import BasicBlock as Reference

    ours = CifarResNet(14, shortcut="project").eval()
    theirs = copy.deepcopy(ours)
    for stage, width, before in (("layer1", 16, 16), ("layer2", 32, 16), ("layer3", 64, 32)):
        stride = 1 if width == before else 2
        down = nn.Sequential(nn.Conv2d(before, width, 1, stride, bias=False), nn.BatchNorm2d(width))
        blocks = nn.Sequential(
            Reference(before, width, stride, down if stride == 2 else None), Reference(width, width)
        )
        setattr(theirs, stage, blocks.eval())
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(ours(x), theirs(x))


def test_padded_shortcut_thins_and_centres():
    block = BasicBlock(4, 8, 2, "pad").eval()
    nn.init.zeros_(block.bn2.weight)
    x = torch.rand(2, 4, 6, 6)
    expected = torch.zeros(2, 8, 3, 3)
    for row in range(3):
        for column in range(3):
            expected[:, 2:6, row, column] = x[:, :, 2 * row, 2 * column]
    assert torch.equal(block(x), expected)


def test_he_initialisation():
    torch.manual_seed(0)
    network = CifarResNet(20)
    weight = network.layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert all(
        (m.weight == 1).all() and (m.bias == 0).all()
        for m in network.modules()
        if isinstance(m, nn.BatchNorm2d)
    )


def test_default_cfg_and_names():
    network = CifarResNet(20, num_classes=100, in_channels=1)
    assert network.default_cfg == {"input_size": (1, 32, 32), "num_classes": 100}
    assert {"conv1.weight", "layer1.0.bn2.weight", "layer3.2.conv2.weight", "fc.bias"} <= set(
        network.state_dict()
    )
    assert "layer2.0.downsample.0.weight" in CifarResNet(20, shortcut="project").state_dict()


@pytest.mark.parametrize(
    ("depth", "near"), [(18, "14 or 20"), (57, "56 or 62"), (2, "8"), (-3, "8")]
)
def test_depth_must_be_6n_plus_2(depth, near):
    with pytest.raises(ConfigurationError, match=f"depth {depth} .*nearest is {near}$"):
        CifarResNet(depth)


def test_unknown_shortcut():
    with pytest.raises(ConfigurationError, match="'identity'"):
        CifarResNet(20, shortcut="identity")  # type: ignore[arg-type]
