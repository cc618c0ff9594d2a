"""Images of one array, brought to another size."""

from __future__ import annotations

import os

from torch import Tensor
from torch.nn.functional import interpolate

from timestepper.errors import DataError


def resize(images: Tensor, side: int) -> Tensor:
    """Resize images to squares, bilinearly and antialiased, as image files are.

    In float32, because the result of uint8 kernels depends on the processor; in parts, because
    that takes four times the memory.

    Args:
        images: uint8 ``(n, channels, height, width)``.
        side: height and width of the result, in pixels.

    Returns:
        uint8 ``(n, channels, side, side)``.

    Raises:
        DataError: they take more bytes than the machine has memory.
    """
    size = images.shape[0] * images.shape[1] * side**2
    if size > os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"):
        raise DataError(
            f"{len(images)} images of {side}x{side} pixels take {size / 1e9:,.0f} GB, more than "
            "this machine has memory; take a smaller image_size"
        )
    resized = images.new_empty(*images.shape[:2], side, side)
    for part, target in zip(images.split(512), resized.split(512), strict=True):
        values = interpolate(part.float(), (side, side), mode="bilinear", antialias=True)
        target.copy_(values.round_())
    return resized
