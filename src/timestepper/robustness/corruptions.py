"""The common corruptions of Hendrycks and Dietterich (arXiv 1903.12261)."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from timestepper.data import DataSet
from timestepper.data.order import CORRUPTION
from timestepper.errors import ConfigurationError, did_you_mean
from timestepper.robustness.images import (
    describe_test_images,
    read_test_images,
    some_test_images,
    with_test_images,
)
from timestepper.robustness.randomness import seeded
from timestepper.robustness.threat import (
    Outcome,
    Progress,
    ThreatModel,
    check_limit,
    check_seed,
    load_extra,
)
from timestepper.training.evaluation import EVALUATION_BATCH, evaluate

COMMON = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)
"""The fifteen corruptions of the benchmark."""
EXTRA = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Four more that its authors set aside for validation."""
COLOUR_ALONE = {"saturate"}
"""Corruptions that change nothing about grey."""
SEVERITIES = (1, 2, 3, 4, 5)
SMALLEST = 32
"""Pixels each way that the package insists on."""
SEED_OF_ITS_OWN = ("impulse_noise", "glass_blur")
"""Corruptions that don't draw from NumPy's global generator."""


@dataclass(frozen=True)
class CommonCorruptions(ThreatModel):
    """Corrupted test images, made by the package ``imagecorruptions``.

    Attributes:
        corruptions: some of :data:`COMMON` and :data:`EXTRA`.
        severities: from 1, weakest, to 5.
        seed: seed of what is random in them.
        limit: use so many of the test images, evenly spaced; None uses all.
    """

    corruptions: tuple[str, ...] = COMMON
    severities: tuple[int, ...] = SEVERITIES
    seed: int = 0
    limit: int | None = 1000

    name = "corruptions"
    unit = "severity"

    def __post_init__(self) -> None:
        if not self.corruptions or not self.severities:
            raise ConfigurationError("there are no corruptions or severities; give at least one")
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise ConfigurationError(f"severity is {severity}; it must be from 1 to 5")
        for corruption in self.corruptions:
            if corruption not in COMMON + EXTRA:
                hint = did_you_mean(corruption, COMMON + EXTRA)
                raise ConfigurationError(
                    f"there is no corruption '{corruption}'"
                    f"{hint or '; there are ' + ', '.join(COMMON + EXTRA)}"
                )
        check_seed(self.seed)
        check_limit(self.limit)

    def describe(self, images: DataSet) -> str:
        """Say what is run; see :meth:`ThreatModel.describe`."""
        if self.corruptions == COMMON:
            which = f"The {len(COMMON)} common corruptions of Hendrycks and Dietterich"
        else:
            which = f"Corruptions of Hendrycks and Dietterich ({', '.join(self.corruptions)})"
        return (
            f"{which}, as the package imagecorruptions makes them, severity "
            f"{', '.join(map(str, self.severities))}, on "
            f"{describe_test_images(images, self.limit)} at {images.image_size[0]}x"
            f"{images.image_size[1]} pixels, seed {self.seed}; the same corrupted images for "
            "every network."
        )

    def require(self, images: DataSet) -> None:
        """Refuse images that don't fit, and a missing package; see :meth:`ThreatModel.require`."""
        height, width = images.image_size
        if min(height, width) < SMALLEST:
            raise ConfigurationError(
                f"the images of {images.name} are {height}x{width}, and common corruptions take "
                f"{SMALLEST}x{SMALLEST} pixels or more; choose another threat"
            )
        if images.channels == 1 and (useless := set(self.corruptions) & COLOUR_ALONE):
            raise ConfigurationError(
                f"corruption {useless.pop()} leaves grey images as they are, and those of "
                f"{images.name} are grey; leave it out"
            )
        _package()

    def evaluate(
        self,
        network: nn.Module,
        images: DataSet,
        fabric: Fabric,
        progress: Progress | None = None,
    ) -> Outcome:
        """Measure a network; see :meth:`ThreatModel.evaluate`."""
        self.require(images)
        description = self.describe(images)
        images = some_test_images(images, self.limit)
        parts = len(self.corruptions) * len(self.severities)
        scores = []
        for corruption in self.corruptions:
            for severity in self.severities:
                corrupted = corrupt(images, corruption, severity, self.seed, fabric.device)
                scores.append(evaluate(network, corrupted, fabric, EVALUATION_BATCH))
                if progress is not None:
                    progress(len(scores), parts)
        shape = len(self.corruptions), len(self.severities)
        return Outcome(
            threat=self.name,
            description=description,
            unit=self.unit,
            levels=tuple(map(float, self.severities)),
            cases=self.corruptions,
            accuracy=torch.tensor([s.accuracy for s in scores], dtype=torch.float64).view(shape),
            loss=torch.tensor([s.loss for s in scores], dtype=torch.float64).view(shape),
        )


def corrupt(
    images: DataSet, corruption: str, severity: int, seed: int, device: torch.device
) -> DataSet:
    """Corrupt the test images of a data set.

    What is random in an image's corruption is a function of seed, corruption and the image's
    place in the data set alone, the same at all severities. The package works on three channels:
    a grey image is repeated, and of the result the first channel is kept.

    Args:
        images: the data set, its images at least 32 pixels high and wide.
        corruption: one of :data:`COMMON` and :data:`EXTRA`.
        severity: 1 to 5.
        seed: seed of what is random.
        device: where the images are read.

    Returns:
        The data set with corrupted test images, uint8 in memory.

    Raises:
        ConfigurationError: ``imagecorruptions`` can't be imported.
    """
    package = _package()
    pixels, labels = read_test_images(images, device)
    index = (COMMON + EXTRA).index(corruption)
    corrupted = torch.empty(pixels.shape, dtype=torch.uint8)
    for number, image in enumerate(pixels.to(torch.uint8)):
        with seeded(seed, index, CORRUPTION, number) as own:
            options = {"seed": own} if corruption in SEED_OF_ITS_OWN else {}
            array = package.corrupt(
                _three_channels(image), severity=severity, corruption_name=corruption, **options
            )
        corrupted[number] = torch.tensor(array).permute(2, 0, 1)[: image.shape[0]]
    return with_test_images(images, corrupted, labels)


def _package() -> ModuleType:
    return load_extra("imagecorruptions", f"threat '{CommonCorruptions.name}'")


def _three_channels(image: Tensor) -> np.ndarray:
    """Turn an image, uint8 ``(1 or 3, height, width)``, into ``(height, width, 3)``."""
    return image.expand(3, -1, -1).permute(1, 2, 0).contiguous().numpy()
