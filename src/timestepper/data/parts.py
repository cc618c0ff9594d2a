"""Images in parts, so that wider copies of them take little memory."""

from __future__ import annotations

from torch import Tensor

PART = 2**22
"""Values in a part: 16 MiB in float32."""


def in_parts(images: Tensor, values: int) -> tuple[Tensor, ...]:
    """Cut images into parts.

    Args:
        images: ``(n, ...)``.
        values: how many a copy of one image has.

    Returns:
        Views of at most as many images as have ``PART`` values, and of one at least.
    """
    parts: tuple[Tensor, ...] = images.split(max(1, PART // values))
    return parts
