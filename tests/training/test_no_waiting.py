"""Nothing in a step makes the host wait for the device: tensors without values raise if it did."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

import timestepper
from timestepper.controllers import CONTROLLERS
from timestepper.data.crop_flip import crop_flip
from timestepper.networks import create
from timestepper.training import build
from timestepper.training.configuration import Configuration
from timestepper.training.evaluation import Meter

META = torch.device("meta")
LABELS = torch.zeros(4, dtype=torch.long, device=META)


def test_these_tensors_notice():
    with pytest.raises(RuntimeError):
        LABELS[0].item()
    with pytest.raises(NotImplementedError):
        LABELS.unique()


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_forward_and_backward(controller):
    network = timestepper.attach(create("cifar_resnet20"), controller).to(META).train()
    outputs = network(torch.randn(4, 3, 32, 32, device=META))
    nn.functional.cross_entropy(outputs, LABELS).backward()
    gradients = [parameter.grad for parameter in network.parameters()]
    assert all(gradient is not None and gradient.is_meta for gradient in gradients)


def test_metrics():
    meter = Meter(SimpleNamespace(device=META, global_rank=0))
    meter.update(torch.randn(4, device=META), torch.randn(4, 10, device=META), LABELS)
    with pytest.raises(RuntimeError):
        meter.compute()


def test_augmentation():
    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8, device=META)
    assert crop_flip(images, LABELS, LABELS, LABELS > 0, 4).shape == images.shape


@pytest.mark.parametrize(("device", "mode"), [("cpu", "default"), ("cuda", "reduce-overhead")])
def test_compiled_networks_are_launched_at_once_on_a_gpu(monkeypatch, device, mode):
    modes = []
    monkeypatch.setattr(build, "_require_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda module, *, mode: modes.append(mode) or module)
    network = nn.Linear(1, 1)
    assert build.build_module(Configuration(), network, torch.device(device)) is network
    assert not modes
    assert build.build_module(Configuration(compile=True), network, torch.device(device)) is network
    assert modes == [mode]
