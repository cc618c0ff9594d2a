"""The test images that are disturbed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from timestepper.data import DataSet
from timestepper.data.crop_flip import CropFlip
from timestepper.data.splits import MemorySplit, Split
from timestepper.robustness.threat import check_limit

BATCH_SIZE = 250
"""Images at a time; that of ``timestepper evaluate``."""


def first_test_images(images: DataSet, limit: int | None) -> DataSet:
    """Leave out all but the first test images.

    Args:
        images: the data set.
        limit: how many to keep; None keeps all.

    Returns:
        The data set with at most ``limit`` test images, of the same numbers as before.

    Raises:
        ConfigurationError: the limit is less than 1.
    """
    check_limit(limit)
    if limit is None:
        return images
    return replace(images, test=_First(images.test, limit))


def describe_test_images(images: DataSet, limit: int | None) -> str:
    """Say which test images are disturbed."""
    whole = len(images.test)
    if limit is None or limit >= whole:
        return f"all {whole} test images of {images.name}"
    return f"the first {limit} of {whole} test images of {images.name}"


def read_test_images(images: DataSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read all test images at once.

    Returns:
        Pixels, whole numbers from 0 to 255, float32 ``(n, channels, height, width)``, and labels,
        int64 ``(n,)``; both on the CPU.
    """
    count = len(images.test)
    shares = [slice(k, min(k + BATCH_SIZE, count)) for k in range(0, count, BATCH_SIZE)]
    batches = images.test.fetch(
        torch.arange(count), shares, device=device, seed=0, epoch=0, augment=False
    )
    pixels, labels = zip(*((p.cpu(), y.cpu()) for p, y in batches), strict=True)
    return torch.cat(pixels), torch.cat(labels)


def with_test_images(images: DataSet, pixels: Tensor, labels: Tensor) -> DataSet:
    """Put other test images in the place of a data set's, to be normalised as those are.

    Args:
        images: the data set.
        pixels: uint8, or float32 in 0 to 255, ``(n, channels, height, width)``.
        labels: int64 ``(n,)``.
    """
    return replace(images, test=MemorySplit(pixels, labels, CropFlip(padding=0, flip=False)))


class _First(Split):
    """The first images of another split, which is read no further."""

    def __init__(self, split: Split, limit: int) -> None:
        self.split = split
        self.limit = limit

    def __len__(self) -> int:
        return min(self.limit, len(self.split))

    def fetch(
        self,
        order: Tensor,
        shares: Sequence[slice],
        *,
        device: torch.device,
        seed: int,
        epoch: int,
        augment: bool,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Fetch from the other split; see :meth:`Split.fetch`."""
        return self.split.fetch(
            order, shares, device=device, seed=seed, epoch=epoch, augment=augment
        )
