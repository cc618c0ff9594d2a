"""The parts of a data set, and the one kind that lives in memory."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from timestepper.data.crop_flip import CropFlip, crop_flip


class Split(ABC):
    """The training, the validation or the test images of a data set.

    Attributes:
        labels: the class of each image, int64 ``(n,)``, on any device.
        files: what tells the files that the images are in from others, wherever they lie; empty
            where nothing is known of them.
    """

    labels: Tensor
    files: str = ""

    @abstractmethod
    def __len__(self) -> int:
        """Count the images."""

    def digest(self) -> str:
        """Condense the labels and what is known of the files; the pixels are not looked at."""
        labels = self.labels.cpu().numpy().tobytes()
        return hashlib.sha256(labels + self.files.encode()).hexdigest()[:16]

    @abstractmethod
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
        """Bring batches to the device.

        Args:
            order: int64 ``(n,)`` on the CPU, numbers of images.
            shares: for each batch, which part of ``order`` it holds.
            device: where the batches are wanted.
            seed: seed of the run.
            epoch: number of the epoch.
            augment: whether to augment.

        Yields:
            Images, float32 ``(batch, channels, height, width)`` in 0 to 255, and labels, int64
            ``(batch,)``; both on the device.
        """


AT_ONCE = {"cuda": 2**24}
"""Pixel values that are made ready in one go, by device: a GPU waits less for the host then."""


class MemorySplit(Split):
    """Images that are kept as one tensor, on the device that first asked for them.

    Args:
        images: uint8, or float32 in 0 to 255, ``(n, channels, height, width)``.
        labels: int64 ``(n,)``.
        augmentation: what ``augment=True`` does.
        files: see :class:`Split`.
    """

    def __init__(
        self, images: Tensor, labels: Tensor, augmentation: CropFlip, files: str = ""
    ) -> None:
        self.images = images
        self.labels = labels
        self.augmentation = augmentation
        self.files = files

    def __len__(self) -> int:
        return len(self.labels)

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
        """Index, crop and flip on the device; see :meth:`Split.fetch`."""
        self.images, self.labels = self.images.to(device), self.labels.to(device)
        order = order.to(device)
        if augment:
            draws = self.augmentation.draw(len(self), seed, epoch)
            top, left, mirrored = (draw.to(device) for draw in draws)
        values = len(order[shares[0]]) * self.images[0].numel() if shares else 1
        batches = max(1, AT_ONCE.get(device.type, 0) // values)
        for first in range(0, len(shares), batches):
            together = shares[first : first + batches]
            index = torch.cat([order[share] for share in together])
            images = self.images.index_select(0, index).float()
            if augment:
                images = crop_flip(
                    images, top[index], left[index], mirrored[index], self.augmentation.padding
                )
            sizes = [len(order[share]) for share in together]
            labels = self.labels.index_select(0, index)
            yield from zip(images.split(sizes), labels.split(sizes), strict=True)


class Subset(Split):
    """Some images of another split, where they stay: nothing is copied.

    Augmentation goes by the images' numbers in the other split.

    Args:
        split: the other split.
        numbers: int64 ``(n,)`` on the CPU, which of its images.
    """

    def __init__(self, split: Split, numbers: Tensor) -> None:
        self.split = split
        self.numbers = numbers
        self.labels = split.labels.cpu()[numbers]
        self.files = split.files

    def __len__(self) -> int:
        return len(self.numbers)

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
            self.numbers[order], shares, device=device, seed=seed, epoch=epoch, augment=augment
        )
