"""The test images that are disturbed."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from timestepper.data import DataSet
from timestepper.data.crop_flip import CropFlip
from timestepper.data.splits import MemorySplit, Subset
from timestepper.robustness.threat import check_limit
from timestepper.training.evaluation import EVALUATION_BATCH


def chosen_numbers(images: DataSet, limit: int | None) -> Tensor:
    """Choose test images: all, or some evenly spaced ones.

    Image folders are in order of their classes, so that the first images would be of few of them.

    Args:
        images: the data set.
        limit: how many to choose at most; None chooses all.

    Returns:
        Their numbers in increasing order, int64 ``(n,)``.

    Raises:
        ConfigurationError: the limit is less than 1.
    """
    check_limit(limit)
    whole = len(images.test)
    count = whole if limit is None else min(limit, whole)
    return torch.arange(count) * whole // count


def some_test_images(images: DataSet, limit: int | None) -> DataSet:
    """Leave out the test images that :func:`chosen_numbers` doesn't choose."""
    return replace(images, test=Subset(images.test, chosen_numbers(images, limit)))


def describe_test_images(images: DataSet, limit: int | None) -> str:
    """Say which test images are disturbed."""
    whole = len(images.test)
    if limit is None or limit >= whole:
        return f"all {whole} test images of {images.name}"
    return f"{limit} evenly spaced ones of the {whole} test images of {images.name}"


def read_test_images(images: DataSet, device: torch.device) -> tuple[Tensor, Tensor]:
    """Read all test images at once.

    Returns:
        Pixels, whole numbers from 0 to 255, float32 ``(n, channels, height, width)``, and labels,
        int64 ``(n,)``; both on the CPU.
    """
    count = len(images.test)
    shares = [slice(k, min(k + EVALUATION_BATCH, count)) for k in range(0, count, EVALUATION_BATCH)]
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
