"""Accuracy and loss against the standard deviation of Gaussian noise on the inputs (Figure 4)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.data.order import NOISE, generator
from timestepper.errors import ConfigurationError
from timestepper.robustness.images import (
    chosen_numbers,
    describe_test_images,
    some_test_images,
)
from timestepper.robustness.threat import (
    Outcome,
    Progress,
    ThreatModel,
    at_least_one,
    check_limit,
    check_seed,
)
from timestepper.stepping.undisturbed import in_eval_mode
from timestepper.training.evaluation import EVALUATION_BATCH, Meter, measure


@dataclass(frozen=True, eq=False)
class NoiseCurve:
    """What a network scores under noise.

    Attributes:
        deviations: standard deviations of the noise, in those of the data's pixels.
        accuracy: share of images whose most likely class is right, 0 to 1, float64
            ``(draws, deviations)`` on the CPU.
        loss: mean cross-entropy in nats, likewise.
    """

    deviations: tuple[float, ...]
    accuracy: Tensor
    loss: Tensor


@dataclass(frozen=True)
class GaussianNoise(ThreatModel):
    """Gaussian noise on the normalised images; see :func:`noise_curve`.

    Attributes:
        deviations: standard deviations of the noise, in those of the data's pixels.
        draws: how many times noise is drawn for each image.
        seed: seed of the noise.
        limit: use so many of the test images, evenly spaced.
    """

    deviations: tuple[float, ...] = tuple(k / 10 for k in range(11))
    draws: int = 3
    seed: int = 0
    limit: int | None = None

    name = "noise"
    unit = "standard deviation of the noise"

    def __post_init__(self) -> None:
        _check(self.deviations, self.draws, self.seed)
        check_limit(self.limit)

    def describe(self, images: DataSet) -> str:
        """Say what is run; see :meth:`ThreatModel.describe`."""
        return (
            f"Gaussian noise on {describe_test_images(images, self.limit)}: mean of {self.draws} "
            f"draws (seed {self.seed}), the same for every network and scaled to each standard "
            "deviation, whose unit is the standard deviation of the data's pixels per channel; "
            "nothing is clipped."
        )

    def require(self, images: DataSet) -> None:
        """Any images will do; see :meth:`ThreatModel.require`."""

    def evaluate(
        self,
        network: nn.Module,
        images: DataSet,
        fabric: Fabric,
        progress: Progress | None = None,
    ) -> Outcome:
        """Measure a network; see :meth:`ThreatModel.evaluate`."""
        curve = noise_curve(
            network,
            images,
            fabric,
            deviations=self.deviations,
            draws=self.draws,
            seed=self.seed,
            limit=self.limit,
            progress=progress,
        )
        return Outcome(
            threat=self.name,
            description=self.describe(images),
            unit=self.unit,
            levels=curve.deviations,
            cases=tuple(f"draw {draw}" for draw in range(self.draws)),
            accuracy=curve.accuracy,
            loss=curve.loss,
        )


@torch.no_grad()
def noise_curve(
    network: nn.Module,
    images: DataSet,
    fabric: Fabric,
    *,
    deviations: Sequence[float],
    draws: int,
    seed: int = 0,
    limit: int | None = None,
    batch_size: int = EVALUATION_BATCH,
    progress: Progress | None = None,
) -> NoiseCurve:
    """Measure a network on test images with Gaussian noise (paper, Figure 4).

    The noise is added to the normalised images and nothing is clipped, so that its unit is the
    standard deviation of the data's pixels, channel by channel. The paper says only that "the
    level of perturbation is decided by the standard deviation", not in which unit. The noise of
    an image is ``deviation * e``, where e is standard normal and a function of seed, draw and the
    image's number alone: every network sees the same noise, whatever the batches, processes and
    device, and all deviations of a draw share one direction. The global generators are neither
    read nor changed.

    Args:
        network: on the device of ``fabric``; its modules' modes are the same afterwards.
        images: the data set.
        fabric: device, precision and processes.
        deviations: standard deviations of the noise; 0 gives the scores of
            :func:`~timestepper.training.evaluation.evaluate`.
        draws: how many times noise is drawn for each image.
        seed: seed of the noise.
        limit: use so many of the test images, evenly spaced.
        batch_size: images at a time, in this process.
        progress: called after each batch with how many are done, and of how many.

    Returns:
        The scores of each draw at each deviation.

    Raises:
        ConfigurationError: there is no deviation, one is negative or not finite, or there are no
            draws or images.
    """
    _check(deviations, draws, seed)
    numbers = chosen_numbers(images, limit)
    images = some_test_images(images, limit)
    meters = [[Meter(fabric) for _ in deviations] for _ in range(draws)]
    batches = images.batches(
        "test",
        batch_size,
        device=fabric.device,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    numbered = enumerate(zip(batches, batches.shares, strict=True), start=1)
    with in_eval_mode(network):
        for done, ((inputs, labels), share) in numbered:
            for draw, row in enumerate(meters):
                noise = _unit_noise(numbers[share], inputs.shape[1:], seed, draw).to(inputs)
                for deviation, meter in zip(deviations, row, strict=True):
                    measure(network, inputs + deviation * noise, labels, meter, fabric)
            if progress is not None:
                progress(done, len(batches))
    scores = [[meter.compute() for meter in row] for row in meters]
    return NoiseCurve(
        deviations=tuple(float(deviation) for deviation in deviations),
        accuracy=torch.tensor([[s.accuracy for s in row] for row in scores], dtype=torch.float64),
        loss=torch.tensor([[s.loss for s in row] for row in scores], dtype=torch.float64),
    )


def _check(deviations: Sequence[float], draws: int, seed: int) -> None:
    if not deviations:
        raise ConfigurationError("there are no deviations; give at least one")
    wrong = next((d for d in deviations if not 0 <= d < math.inf), None)
    if wrong is not None:
        raise ConfigurationError(f"deviation {wrong:g} is no standard deviation; give 0 or more")
    at_least_one("draws", draws)
    check_seed(seed)


def _unit_noise(numbers: Tensor, shape: torch.Size, seed: int, draw: int) -> Tensor:
    """Draw standard normal noise, float32 ``(images, *shape)`` on the CPU, image by image."""
    return torch.stack(
        [
            torch.randn(shape, generator=generator(seed, draw, NOISE, number), device="cpu")
            for number in numbers.tolist()
        ]
    )
