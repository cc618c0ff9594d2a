"""Small trainings, and ways to disturb them."""

import io
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from timestepper.training.configuration import Configuration, NetworkConfiguration
from timestepper.training.interruption import Interrupted
from timestepper.training.loop import Trainer, train
from timestepper.training.run import Run

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
