"""Averaged weights of any scale, brought to one."""

from __future__ import annotations

from torch import Tensor, nn

SMALLEST_VARIANCE = 1e-12
"""Averages of wide layers' weights have variances of 1e-6: what is added to them must be less."""


def standardised(averaged: Tensor) -> Tensor:
    """Bring each block's averaged weights to zero mean and unit variance.

    Args:
        averaged: w̄, ``(depth, features)``; rows whose values are all equal become zeros.
    """
    return nn.functional.layer_norm(averaged, averaged.shape[1:], eps=SMALLEST_VARIANCE)
