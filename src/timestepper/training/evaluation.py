"""Loss and accuracy of a network on images that it isn't trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torchmetrics import MeanMetric

from timestepper.data import DataSet, SplitName
from timestepper.stepping.undisturbed import in_eval_mode

EVALUATION_BATCH = 250
"""Images at a time, where they are small."""

SMALL = 3 * 64 * 64
"""Pixel values of the largest ones that are."""

AT_ONCE = {"cuda": 2**22}
"""Pixel values at a time where that is more images, by device: a GPU waits less for the host."""


@dataclass(frozen=True)
class Scores:
    """What was measured.

    Attributes:
        loss: mean cross-entropy, in nats.
        accuracy: share of images whose most likely class is right, 0 to 1.
    """

    loss: float
    accuracy: float


class Meter:
    """Accumulates loss and accuracy on the device, over all processes.

    Args:
        fabric: device and processes.
    """

    def __init__(self, fabric: Fabric) -> None:
        # A loss that is not finite must come out as it is. In float64, so that networks that
        # differ by as many images differ by the same number: tests over seeds would take
        # float32's last digits for evidence. Metrics don't notice the updates of a CUDA graph, and
        # so may keep no result.
        self._metrics = {
            name: MeanMetric("disable", compute_with_cache=False).set_dtype(torch.float64)
            for name in ("loss", "accuracy")
        }
        self._first = fabric.global_rank == 0
        for metric in self._metrics.values():
            metric.to(fabric.device)
            metric.persistent(True)

    def update(self, losses: Tensor, outputs: Tensor, labels: Tensor) -> None:
        """Add a batch; images whose outputs hold NaN are wrong.

        Args:
            losses: cross-entropy of each image, ``(batch,)``.
            outputs: ``(batch, num_classes)``.
            labels: int64 ``(batch,)``.
        """
        self._metrics["loss"].update(losses.double())
        # For argmax NaN is the largest number.
        right = (outputs.argmax(1) == labels) & ~outputs.isnan().any(1)
        self._metrics["accuracy"].update(right.double())

    def compute(self) -> Scores:
        """Return the scores over all batches of all processes."""
        return Scores(*self.on_device().tolist())

    def on_device(self) -> Tensor:
        """Return loss and accuracy as :meth:`compute` does, float64 ``(2,)`` on the device."""
        with warnings.catch_warnings():
            # A metric that goes on from a state does not know that it has seen anything.
            warnings.filterwarnings("ignore", "The ``compute`` method of metric")
            return torch.stack([metric.compute() for metric in self._metrics.values()])

    def clear(self) -> None:
        """Forget all batches; the tensors stay, as CUDA graphs add to them."""
        for metric in self._metrics.values():
            for name in metric.metric_state:
                getattr(metric, name).zero_()

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Return what all processes together have accumulated."""
        state = {}
        for name, metric in self._metrics.items():
            with metric.sync_context():
                state[name] = {key: value.clone() for key, value in metric.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Go on from a state, of any device; the first process takes all of it."""
        if self._first:
            for name, metric in self._metrics.items():
                for key, value in state[name].items():
                    getattr(metric, key).copy_(value)


def evaluation_batch(images: DataSet, device: torch.device, batch_size: int) -> int:
    """Tell how many images a training evaluates at a time.

    Args:
        images: what it evaluates on.
        device: where.
        batch_size: images that it trains on at a time, in this process.
    """
    values = images.channels * images.image_size[0] * images.image_size[1]
    # Memory that is enough for training must be for this, too.
    in_memory = max(batch_size, EVALUATION_BATCH * SMALL // values)
    at_once = AT_ONCE.get(device.type, 0) // values
    return max(min(EVALUATION_BATCH, in_memory), at_once)


@torch.no_grad()
def evaluate(
    network: nn.Module,
    images: DataSet,
    fabric: Fabric,
    batch_size: int,
    split: SplitName = "test",
    after_batch: Callable[[], None] = lambda: None,
) -> Scores:
    """Measure a network on the images of a split, without augmentation.

    Args:
        network: on the device of ``fabric``; its modules' modes are the same afterwards.
        images: the data set.
        fabric: device, precision and processes.
        batch_size: images at a time, in this process.
        split: which images.
        after_batch: what is done after each batch.
    """
    meter = Meter(fabric)
    batches = images.batches(
        split,
        batch_size,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    with in_eval_mode(network):
        for inputs, labels in batches:
            measure(network, inputs, labels, meter, fabric)
            after_batch()
    return meter.compute()


def measure(
    network: nn.Module, inputs: Tensor, labels: Tensor, meter: Meter, fabric: Fabric
) -> None:
    """Add what a network makes of a batch to a meter.

    Args:
        network: in eval mode.
        inputs: ``(batch, channels, height, width)``.
        labels: int64 ``(batch,)``.
        meter: what accumulates.
        fabric: its precision is the network's.
    """
    with fabric.autocast():
        outputs = network(inputs).float()
    losses = nn.functional.cross_entropy(outputs, labels, reduction="none")
    meter.update(losses, outputs, labels)
