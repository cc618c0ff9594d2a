from __future__ import annotations

import subprocess
import sys

import pytest
import timm
import torch
import torchvision

from timestepper.errors import ConfigurationError
from timestepper.networks import CifarResNet, create, list_networks


def one_line(error: pytest.ExceptionInfo[ConfigurationError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    return message


def test_ours():
    network = create("cifar_resnet20", num_classes=5, in_channels=1, shortcut="project")
    assert isinstance(network, CifarResNet)
    assert network(torch.randn(2, 1, 8, 8)).shape == (2, 5)


def test_bare_name_is_timm_before_torchvision():
    assert type(create("resnet18")) is timm.models.resnet.ResNet
    assert type(create("torchvision/resnet18")) is torchvision.models.ResNet
    assert type(create("timm/resnet18")) is timm.models.resnet.ResNet
    # A name that timm lacks.
    assert type(create("squeezenet1_1", num_classes=3)) is torchvision.models.SqueezeNet


def test_options_mean_the_same_everywhere():
    x = torch.randn(2, 1, 64, 64)
    assert create("timm/resnet18", num_classes=4, in_channels=1)(x).shape == (2, 4)
    network = create("torchvision/resnet18", num_classes=4, in_channels=3)
    assert network(x.expand(-1, 3, -1, -1)).shape == (2, 4)


def test_torchvision_has_three_channels():
    with pytest.raises(ConfigurationError) as error:
        create("torchvision/resnet18", in_channels=1)
    assert "3 channels, not 1" in one_line(error)


@pytest.mark.parametrize("name", ["cifar_resnet20", "timm/resnet18", "torchvision/resnet18"])
def test_unknown_option(name):
    with pytest.raises(ConfigurationError) as error:
        create(name, wdith=3)
    assert one_line(error) == f"network '{name}' has no option 'wdith'; leave it out"


def test_refused_value():
    with pytest.raises(ConfigurationError) as error:
        create("timm/resnet18", num_classes="ten")
    assert "timm/resnet18" in one_line(error)
    assert "num_classes='ten'" in one_line(error)


@pytest.mark.parametrize("option", ["pretrained", "weights", "checkpoint_path"])
def test_no_pretrained_weights(option):
    with pytest.raises(ConfigurationError, match=f"'{option}' asks for pretrained weights"):
        create("resnet18", **{option: True})


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("resnet51", "'resnet50'"),
        ("torchvision/resnet51", "'torchvision/resnet50'"),
        ("cifar-resnet20", "'cifar_resnet20'"),
        ("hf-hub:someone/something", "list_networks()"),
        ("nowhere/resnet18", "resnet18"),
    ],
)
def test_unknown_name(name, near):
    with pytest.raises(ConfigurationError) as error:
        create(name)
    assert f"'{name}'" in one_line(error)
    assert near in one_line(error)


def test_wrong_depths():
    with pytest.raises(ConfigurationError, match=r"depth 21 .* 20 or 26"):
        create("cifar_resnet21")


@pytest.mark.parametrize(
    ("name", "example"),
    [
        ("cifar_resnet", "cifar_resnet20"),
        ("cifar_densenet40", "cifar_densenet40_k12"),
        ("cliquenet_t12_k36", "cliquenet_k36_t12"),
    ],
)
def test_names_of_ours_without_sizes(name, example):
    with pytest.raises(ConfigurationError, match=f"not say its sizes; write it as in '{example}'"):
        create(name)


def test_our_networks_are_built_as_named():
    for name in ("cifar_densenet13_k6", "cifar_densenetbc22_k4", "cliquenet_k8_t9"):
        network = create(name, num_classes=7, in_channels=1).eval()
        assert network(torch.zeros(2, 1, 8, 8)).shape == (2, 7)
    assert create("cifar_densenetbc22_k4").block1[0].bottleneck
    assert not create("cifar_densenet22_k4").block1[0].bottleneck


def test_list_networks():
    names = list_networks()
    assert len(set(names)) == len(names)
    assert {"cifar_resnet56", "timm/resnet50", "torchvision/resnet50"} <= set(names)
    assert not any("maskrcnn" in name for name in names)


def test_importing_loads_neither_library():
    code = (
        "import sys, timestepper.networks;"
        "assert not {'timm', 'torchvision'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
