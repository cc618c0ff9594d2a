"""How long trainings will take on this machine."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from lightning_fabric import Fabric
from torch import nn

from timestepper.data import DataSet
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.runner import cores, threads_for
from timestepper.training.build import build_data, build_fabric, build_network
from timestepper.training.configuration import Configuration
from timestepper.training.optimizer import build_optimizer

FORWARD_SHARE = 1 / 3
"""What evaluating an image costs, of training on it: a backward pass is about two forward ones."""

MOST_PIXELS = 2**17
"""A trial step on the CPU takes at most so many pixels; time is proportional beyond them."""


class Estimator:
    """Estimates trainings by trying a step of each kind; loads every data set once.

    Args:
        jobs: how many trainings run at once, which share the CPU's cores.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._data: dict[str, DataSet] = {}
        self._seconds: dict[tuple[str, str, str], float] = {}
        self._on_cpu = True

    def remaining(self, planned: PlannedRun) -> float:
        """Estimate what is left of a training and its measurement, in seconds.

        Raises:
            TimestepperError: its data is missing, or the training is impossible.
        """
        if planned.state == "done":
            return 0.0
        images = self.images(planned.configuration)
        key = (planned.protocol, planned.network, planned.method)
        if key not in self._seconds:
            self._seconds[key] = self._seconds_per_image(planned.configuration, images)
        tests = FORWARD_SHARE * len(images.test)
        epochs = planned.configuration.epochs - planned.epochs_done
        count = epochs * (len(images.train) + tests)
        if planned.noise is not None:
            count += len(planned.noise.deviations) * planned.noise.draws * tests
        return count * self._seconds[key]

    def hours(self, planned: Sequence[PlannedRun]) -> float:
        """Estimate how long it takes until all of several trainings are done.

        On the CPU each core does one at a time. On a GPU they share the device, and nothing is
        counted on being faster together.
        """
        seconds = [self.remaining(each) for each in planned if each.state != "done"]
        if not seconds:
            return 0.0
        together = min(self._jobs, cores(), len(seconds)) if self._on_cpu else 1
        return max(sum(seconds) / together, *seconds) / 3600

    def images(self, configuration: Configuration) -> DataSet:
        """Load a training's images, or return those that were loaded before.

        Raises:
            DataError: they are missing or broken.
        """
        key = repr(configuration.data)
        if key not in self._data:
            self._data[key] = build_data(configuration)
        return self._data[key]

    def _seconds_per_image(self, configuration: Configuration, images: DataSet) -> float:
        """Time the second of two training steps, on the cores that it will have."""
        threads = torch.get_num_threads()
        torch.set_num_threads(threads_for(self._jobs))
        try:
            fabric = build_fabric(configuration)
            self._on_cpu = fabric.device.type == "cpu"
            return _time_step(configuration, images, fabric)
        finally:
            torch.set_num_threads(threads)


def _time_step(configuration: Configuration, images: DataSet, fabric: Fabric) -> float:
    network = build_network(configuration, images)
    module, optimizer = fabric.setup(
        network.to(fabric.device), build_optimizer(configuration, network)
    )
    height, width = images.image_size
    batch = configuration.batch_size
    if fabric.device.type == "cpu":
        batch = max(2, min(batch, MOST_PIXELS // (height * width)))
    inputs = torch.zeros(batch, images.channels, height, width, device=fabric.device)
    if configuration.channels_last:
        inputs = inputs.to(memory_format=torch.channels_last)
    labels = torch.zeros(batch, dtype=torch.long, device=fabric.device)
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        loss = nn.functional.cross_entropy(module(inputs), labels)
        optimizer.zero_grad()
        fabric.backward(loss)
        optimizer.step()
        loss.item()  # waits for the device
        seconds = time.perf_counter() - start
    return seconds / batch
