"""The first test images of a data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from timestepper.data import DataSet
from timestepper.data.splits import Split
from timestepper.errors import ConfigurationError


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
    if limit is None:
        return images
    if limit < 1:
        raise ConfigurationError(f"limit is {limit}; it must be at least 1")
    return replace(images, test=_First(images.test, limit))


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
