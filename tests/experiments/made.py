"""Runs that look finished without having been trained."""

from __future__ import annotations

import csv

import torch

from timestepper import data
from timestepper.experiments.plan import PlannedRun
from timestepper.training.step_history import write_step_history


def make_run(planned: PlannedRun, accuracy: float, loss: float = 1.0, commit: str = "abc") -> None:
    """Leave what a training leaves that ended with these test scores."""
    run = planned.run
    run.create(planned.configuration, data.load("digits"), torch.device("cpu"))
    run.provenance.write_text(f"from the start:\n  commit: {commit}\n  hardware: an abacus\n")
    epochs = planned.configuration.epochs
    with run.metrics.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", "train_accuracy", "train_loss", "test_accuracy", "test_loss"])
        for epoch in range(1, epochs + 1):
            share = epoch / epochs
            writer.writerow([epoch, share * accuracy, loss, share * accuracy, loss])
    run.folded.touch()


def finish(planned: PlannedRun) -> None:
    """Leave only what tells that a training has ended."""
    run = planned.run
    run.folder.mkdir(parents=True, exist_ok=True)
    run.configuration.touch()
    run.metrics.write_text("epoch\n" + "1\n" * planned.configuration.epochs)
    run.folded.touch()


def make_steps(planned: PlannedRun, steps: dict[str, list[float]]) -> None:
    """Leave step sizes: for each branch its mean at the start and after each epoch."""
    spread = torch.tensor([-0.1, 0.1])
    history = {name: torch.tensor(means)[:, None] + spread for name, means in steps.items()}
    write_step_history(history, planned.run.step_history)
