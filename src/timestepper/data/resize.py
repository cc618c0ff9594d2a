"""Images of one array, brought to another size."""

from __future__ import annotations

import os
from collections.abc import Sequence

from torch import Tensor
from torch.nn.functional import interpolate

from timestepper.data.parts import in_parts
from timestepper.errors import DataError

GRID = 2**20
"""Steps from one whole number to the next before rounding; those of float64 are much finer."""


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images to squares, bilinearly and antialiased, as image files are.

    The same bytes on all processors: in float64, whose last digits depend on the processor's
    instructions, and cut to fewer of them before it is rounded, so that halves are halves. In
    parts, because that takes eight times the memory.

    Args:
        images: uint8 ``(n, channels, height, width)``.
        side: height and width of the result, in pixels.

    Returns:
        uint8 ``(n, channels, side, side)``.
    """
    resized = images.new_empty(*images.shape[:2], side, side)
    largest = max(images.shape[1:].numel(), resized.shape[1:].numel())
    parts = zip(in_parts(images, largest), in_parts(resized, largest), strict=True)
    for part, target in parts:
        values = interpolate(part.double(), (side, side), mode="bilinear", antialias=True)
        target.copy_(values.mul_(GRID).round_().div_(GRID).round_())
    return resized


def require_memory(splits: Sequence[Tensor], side: int) -> None:
    """Make sure that there is memory for resized images.

    Args:
        splits: all that are to be resized, each as for :func:`resize`.
        side: height and width of the result, in pixels.

    Raises:
        DataError: they take more bytes than the machine has memory.
    """
    count = sum(len(images) for images in splits)
    size = sum(images.shape[0] * images.shape[1] for images in splits) * side**2
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise DataError(
            f"{count} images of {side}x{side} pixels take {size / 1e9:,.0f} GB, more than "
            "this machine has memory; take a smaller image_size"
        )
