"""A run's network, ready to be used."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_fabric import Fabric
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.errors import StateError
from timestepper.stepping import load_weights
from timestepper.training.build import build_data, build_fabric, build_network
from timestepper.training.checkpoints import Which
from timestepper.training.compatibility import require_same_images
from timestepper.training.configuration import Configuration
from timestepper.training.run import Run


@dataclass(frozen=True)
class Trained:
    """A run's network with what it takes to evaluate it.

    Attributes:
        network: with its step sizes, on the device, in eval mode.
        configuration: how it was trained.
        images: on what.
        fabric: device and precision.
        epochs: whole epochs that it has seen.
        steps: optimizer steps of the next epoch that it has seen.
        warning: why it isn't from the checkpoint that was asked for, or None.
    """

    network: nn.Module
    configuration: Configuration
    images: DataSet
    fabric: Fabric
    epochs: int
    steps: int
    warning: str | None

    @property
    def progress(self) -> str:
        """How long it was trained."""
        within = f" and {self.steps} steps of the next" if self.steps else ""
        return f"{self.epochs} epochs{within}"

    def some_images(self, count: int) -> Tensor:
        """Return the first test images, float32 ``(count, channels, height, width)``."""
        images, _ = next(iter(self.images.batches("test", count, device=self.fabric.device)))
        return images


def load_trained(
    run: Run, which: Which = "last", configuration: Configuration | None = None
) -> Trained:
    """Load a run's network: the averaged weights where the training has them.

    Args:
        run: the run.
        which: the last or the best checkpoint.
        configuration: the run's own, but for where files lie; by default what it has itself.

    Raises:
        TimestepperError: the run, its data or its checkpoint is not as it should be.
        RunError: it was trained on other images than those that are there now.
    """
    configuration = configuration or run.read_configuration()
    state, warning = run.checkpoints.load(which)
    fabric = build_fabric(configuration)
    images = build_data(configuration)
    require_same_images(images, run)
    network = build_network(configuration, images)
    try:
        load_weights(network, state["network"] if state["ema"] is None else state["ema"])
    except StateError as error:
        raise StateError(f"{run.checkpoints.folder}: {error}") from error
    return Trained(
        network=network.to(fabric.device).eval(),
        configuration=configuration,
        images=images,
        fabric=fabric,
        epochs=len(state["history"]),
        steps=state.get("batch", 0),
        warning=warning,
    )
