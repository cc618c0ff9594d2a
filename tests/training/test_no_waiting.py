"""Nothing in a step makes the host wait for the device: tensors without values raise if it did."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import timestepper
from timestepper.controllers import CONTROLLERS
from timestepper.data.crop_flip import crop_flip
from timestepper.networks import create
from timestepper.training import build
from timestepper.training.configuration import (
    Configuration,
    OptimizerConfiguration,
    StabilityConfiguration,
)
from timestepper.training.evaluation import Meter, Scores
from timestepper.training.looks import Look
from timestepper.training.not_finite import Guard

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


@pytest.mark.parametrize(
    ("device", "processes", "mode"),
    [("cpu", 1, "default"), ("cuda", 1, "default"), ("cuda", 2, "reduce-overhead")],
)
def test_what_is_compiled_is_launched_at_once_on_a_gpu(monkeypatch, device, processes, mode):
    fabric = SimpleNamespace(device=torch.device(device), world_size=processes)
    modes = []
    monkeypatch.setattr(build, "_require_compiler", lambda device: None)
    monkeypatch.setattr(torch, "compile", lambda module, *, mode: modes.append(mode) or module)
    network = nn.Linear(1, 1)
    plain, compiled = Configuration(), Configuration(compile=True)
    assert build.build_module(plain, network, fabric) is network
    assert not modes
    assert build.build_module(compiled, network, fabric) is network
    assert modes == [mode]
    assert not build.captures_steps(plain, fabric)
    assert build.captures_steps(compiled, fabric) == (device == "cuda" and processes == 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": OptimizerConfiguration(skip_not_finite=True)},
        {"stability": StabilityConfiguration("bound", 0.1)},
    ],
    ids=["skipping", "penalty"],
)
def test_steps_in_which_the_host_looks_are_not_captured(changes):
    fabric = SimpleNamespace(device=torch.device("cuda"), world_size=1)
    assert not build.captures_steps(Configuration(compile=True, **changes), fabric)


def test_a_look_has_what_the_meter_and_the_losses_say():
    fabric = SimpleNamespace(
        device=torch.device("cpu"), global_rank=0, all_reduce=lambda finite, reduce_op: finite
    )
    guard = Guard(nn.Linear(1, 1), fabric, skip=False)
    guard.looks = False  # As on a GPU.
    meter = Meter(fabric)
    meter.update(torch.tensor([1.0, 3.0]), torch.eye(2), torch.tensor([0, 0]))
    losses = [torch.tensor(value) for value in (0.5, math.inf, math.nan, 0.25)]
    look = Look(20, 100.0, losses, meter, guard)
    meter.clear()
    assert look.scores == Scores(2.0, 0.5)
    assert look.first_not_finite == (18, math.inf)
    assert Look(20, 100.0, losses[:1], meter, guard).first_not_finite is None
