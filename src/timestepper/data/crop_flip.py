"""Zero padding, random crop and random flip of a whole batch in a few tensor operations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from timestepper.data.order import AUGMENTATION, generator


@dataclass(frozen=True)
class CropFlip:
    """How the training images of a data set are augmented.

    Attributes:
        padding: pixels of zeros put on every side before a crop of the image's own size.
        flip: whether half of the images are mirrored left to right.
    """

    padding: int
    flip: bool

    def draw(self, count: int, seed: int, epoch: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw what happens to every image of a data set in one epoch.

        One draw for all images, indexed by the image's number: what happens to an image then
        depends neither on the batch size nor on the number of processes, nor on where a
        resumed epoch starts.

        Args:
            count: number of images.
            seed: seed of the run.
            epoch: number of the epoch.

        Returns:
            ``(top, left, mirrored)``: int64 offsets in 0 to 2 * padding, and bool; each
            ``(count,)`` on the CPU.
        """
        source = generator(seed, epoch, AUGMENTATION)
        top, left = torch.randint(0, 2 * self.padding + 1, (2, count), generator=source)
        mirrored = torch.rand(count, generator=source) < (0.5 if self.flip else 0.0)
        return top, left, mirrored


def crop_flip(images: Tensor, top: Tensor, left: Tensor, mirrored: Tensor, padding: int) -> Tensor:
    """Pad images with zeros, cut a window of the old size out of each, mirror some.

    Args:
        images: ``(batch, channels, height, width)``, any dtype.
        top: int64 ``(batch,)``, first row of the window in the padded image.
        left: int64 ``(batch,)``, first column.
        mirrored: bool ``(batch,)``, whether the window is mirrored left to right.
        padding: pixels on every side.

    Returns:
        Images of the same shape and dtype.
    """
    batch, channels, height, width = images.shape
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored[:, None], columns.flip(0), columns) + left[:, None]
    rows = torch.arange(height, device=images.device) + top[:, None]
    pixels = (rows * (width + 2 * padding))[:, :, None] + columns[:, None, :]
    padded = nn.functional.pad(images, (padding,) * 4).flatten(2)
    window = padded.gather(2, pixels.view(batch, 1, -1).expand(-1, channels, -1))
    return window.view_as(images)
