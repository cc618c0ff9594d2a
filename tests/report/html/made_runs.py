"""Folders of runs that nobody has trained: what the report reads of them, with chosen numbers."""

import json
from dataclasses import replace
from pathlib import Path

import torch

from timestepper.data import load
from timestepper.training.configuration import (
    Configuration,
    NetworkConfiguration,
    SteppingConfiguration,
)
from timestepper.training.explanations import write_explanations
from timestepper.training.run import Run
from timestepper.training.step_history import write_step_history

SMALL = Configuration(network=NetworkConfiguration("cifar_resnet8"), epochs=3, accelerator="cpu")
CHANNELS = {"layer1.0": 16, "layer2.0": 32, "layer3.0": 64}


def row(epoch, accuracy, loss, split="test"):
    return {
        "epoch": epoch,
        "lr": 0.1 / epoch,
        "train_loss": 2 * loss,
        "train_accuracy": accuracy / 2,
        f"{split}_loss": loss,
        f"{split}_accuracy": accuracy,
        "images_per_second": 721.0,  # two seconds an epoch
    }


def steps(epochs, seed=0, channels=CHANNELS):
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.rand(1 + epochs, count, generator=generator) for name, count in channels.items()
    }


def make_run(
    folder,
    scores,
    *,
    controller="lstm",
    seed=0,
    data=None,
    split="test",
    explanations=None,
    channels=CHANNELS,
    **changes,
):
    """Write a run's folder; ``scores`` are accuracy and loss of each epoch that is done."""
    stepping = SteppingConfiguration(controller, explain=explanations is not None)
    configuration = replace(SMALL, stepping=stepping, seed=seed, **changes)
    run = Run(Path(folder))
    run.create(configuration, load("digits"), torch.device("cpu"))
    if data is not None:
        run.data.write_text(json.dumps(json.loads(run.data.read_text()) | data))
    history = [row(epoch, *score, split) for epoch, score in enumerate(scores, start=1)]
    if controller != "none":
        recorded = steps(len(scores), seed, channels)
        for number, one in enumerate(history, start=1):
            one |= {
                f"evolution_time/{name.partition('.')[0]}": rows[number].mean().item()
                for name, rows in recorded.items()
            }
        write_step_history(recorded, run.step_history)
    if explanations is not None:
        write_explanations(explanations, run.explanation)
    if history:
        run.write_metrics(history)
    return run
