"""What time stepping costs in a training, and how fast the training is."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from lightning_fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import ConfigurationError
from timestepper.speed.alternating import Timings, alternate
from timestepper.training.build import build_data, build_fabric
from timestepper.training.captured import CapturedStep
from timestepper.training.configuration import Configuration, SteppingConfiguration
from timestepper.training.folded import folded_copy
from timestepper.training.interruption import Signals
from timestepper.training.progress import Bars
from timestepper.training.run import Run
from timestepper.training.trainer import Trainer

EPOCHS = 2
"""Epochs of the training whose last one is timed."""


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        batch: shape of the images of one step.
        device: what it ran on.
        training: steps of the "plain" and the "attached" network, in seconds.
        inference: passes of the "plain" and the "folded" network, in seconds.
        images_per_second: of an epoch of training with step sizes.
        working: share of that epoch that forward, backward and the optimizer's step account for:
            the time that they alone take as often on one batch that is already there. What is left
            goes to data, the look at the gradients, metrics and progress. It may come out above 1
            where the machine is not steady.
    """

    batch: tuple[int, ...]
    device: torch.device
    training: Timings
    inference: Timings
    images_per_second: float
    working: float

    @property
    def training_ratio(self) -> float:
        """Time of a training step with step sizes over the plain network's."""
        return self.training.ratio("attached", "plain")

    @property
    def inference_ratio(self) -> float:
        """Time of a pass of the folded network over the plain one's."""
        return self.inference.ratio("folded", "plain")


def measure_speed(configuration: Configuration, rounds: int, folder: Path) -> Speed:
    """Time a training's parts.

    Args:
        configuration: as for a training; epochs, learning rate and so on do not matter.
        rounds: how often each side is timed.
        folder: an empty one, for the runs.

    Raises:
        ConfigurationError: there are several processes.
        TimestepperError: as for :func:`~timestepper.training.loop.train`.
    """
    # Rates count the images of all, and they would have to take their turns together.
    if (processes := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ConfigurationError(
            f"a training of {processes} processes can't be timed; run it without torchrun, with "
            "batch_size set to the share of one"
        )
    fabric = build_fabric(configuration)
    images = build_data(configuration)
    configuration = replace(
        configuration,
        epochs=EPOCHS,
        schedule=replace(configuration.schedule, warmup_epochs=0),
    )
    without = replace(configuration, stepping=SteppingConfiguration("none"))
    trainers = {
        "plain": _trainer(without, images, fabric, folder / "plain"),
        "attached": _trainer(configuration, images, fabric, folder / "attached"),
    }
    inputs, labels = next(iter(trainers["plain"].batches(0)))
    steps = {name: _step(trainer, inputs, labels) for name, trainer in trainers.items()}
    training = alternate(steps, rounds)
    plain = trainers["plain"].network.eval()
    folded = folded_copy(trainers["attached"].network, inputs)
    passes = {name: _pass(n, inputs, fabric) for name, n in (("plain", plain), ("folded", folded))}
    inference = alternate(passes, rounds)
    work = {"work": _work(trainers["attached"], inputs, labels)}
    before = alternate(work, rounds)
    timed = _trainer(configuration, images, fabric, folder / "epochs")
    with Signals() as signals, Bars(Console(quiet=True)) as bars:
        for _ in timed.fit(signals, bars):
            pass
    images_per_second = timed.history[-1]["images_per_second"]
    seconds = before.and_then(alternate(work, rounds)).median("work")
    return Speed(
        tuple(inputs.shape),
        fabric.device,
        training,
        inference,
        images_per_second,
        seconds / len(inputs) * images_per_second,
    )


def _trainer(
    configuration: Configuration, images: DataSet, fabric: Fabric, folder: Path
) -> Trainer:
    run = Run(folder)
    run.create(configuration, images, fabric.device)
    return Trainer(run, configuration, images, fabric)


def _step(trainer: Trainer, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    trainer.module.train()

    def step() -> None:
        trainer.step(inputs, labels)
        _wait(inputs)

    return step


def _work(trainer: Trainer, inputs: Tensor, labels: Tensor) -> Callable[[], None]:
    """Return a step without what looks after it."""
    trainer.module.train()
    if trainer.configuration.channels_last:
        inputs = inputs.to(memory_format=torch.channels_last)

    def work(inputs: Tensor, labels: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(trainer.module(inputs), labels)
        trainer.optimizer.zero_grad()
        trainer.fabric.backward(loss)
        trainer.optimizer.step()
        return loss.detach()

    run = work if trainer.captured is None else CapturedStep(work, work, len(inputs))

    def step() -> None:
        run(inputs, labels)
        _wait(inputs)

    return step


def _pass(network: nn.Module, inputs: Tensor, fabric: Fabric) -> Callable[[], None]:
    def forward() -> None:
        with torch.inference_mode(), fabric.autocast():
            network(inputs)
        _wait(inputs)

    return forward


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
