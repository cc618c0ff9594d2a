"""Small trainings, and ways to disturb them."""

import csv
import io
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from timestepper.training.configuration import Configuration, NetworkConfiguration
from timestepper.training.interruption import Interrupted
from timestepper.training.loop import train
from timestepper.training.run import Run
from timestepper.training.trainer import Trainer

TINY = Configuration(network=NetworkConfiguration("cifar_resnet8"), epochs=2, accelerator="cpu")
"""Trains in two seconds."""
UPDATES = 23
"""Optimizer steps of an epoch: 1,442 training images in batches of 64, the last one smaller."""


def start(folder, resume=False, **changes):
    """Train, or go on, and return what a person without a terminal sees."""
    run = Run(Path(folder))
    shown = io.StringIO()
    configuration = run.read_configuration() if resume else replace(TINY, **changes)
    train(run, configuration, resume=resume, console=Console(file=shown, width=200))
    return shown.getvalue()


def train_alone(folder, epochs, threads):
    """What a process of its own does: begin, or go on; what it shows is beside the folder."""
    torch.set_num_threads(threads)
    run = Run(Path(folder))
    resume = run.configuration.exists()
    configuration = run.read_configuration() if resume else replace(TINY, epochs=epochs)
    with Path(f"{folder}.log").open("a", buffering=1) as log:
        train(run, configuration, resume=resume, console=Console(file=log, width=200))


def at_step(monkeypatch, number, action):
    """Do something once, before the n-th optimizer step."""
    step, made = Trainer.step, []

    def counted(trainer, *batch):
        made.append(1)
        if len(made) == number:
            action(trainer)
        return step(trainer, *batch)

    monkeypatch.setattr(Trainer, "step", counted)


def interrupt(folder, monkeypatch, number, which=signal.SIGTERM, **changes):
    """Train until a signal comes in the n-th optimizer step; return what the user is told."""
    with monkeypatch.context() as patches:
        at_step(patches, number, lambda trainer: signal.raise_signal(which))
        with pytest.raises(Interrupted) as stopped:
            start(folder, **changes)
    return stopped.value


def checkpoint(folder, name="last"):
    return torch.load(Path(folder) / "checkpoints" / f"{name}.pt", weights_only=True)


def assert_identical(a, b):
    assert type(a) is type(b)
    if isinstance(a, dict):
        assert list(a) == list(b)
        for key in a:
            if key != "images_per_second":
                assert_identical(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            assert_identical(one, other)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


def metrics(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return [{**row, "images_per_second": ""} for row in csv.DictReader(file)]


def assert_same_end(folder, unbroken):
    assert_identical(checkpoint(folder), checkpoint(unbroken))
    assert_identical(checkpoint(folder, "best"), checkpoint(unbroken, "best"))
    assert metrics(folder) == metrics(unbroken)
    name = "folded.safetensors"
    assert (Path(folder) / name).read_bytes() == (Path(unbroken) / name).read_bytes()
