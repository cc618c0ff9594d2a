"""Averaged weights of any scale, brought to one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from timestepper.controllers.arrays import Array

SMALLEST_VARIANCE = 1e-12
"""Averages of wide layers' weights have variances of 1e-6: what is added to them must be less."""
ROUNDING = 8
"""Weights that differ by no more than so many units of rounding count as equal."""


def standardised(averaged: Tensor) -> Tensor:
    """Bring each block's averaged weights to zero mean and unit variance.

    Args:
        averaged: w̄, ``(depth, features)``. A row whose values are all equal (a convolution that
            starts at zero, say) becomes zeros and gets no gradient: there is no direction in it,
            and dividing by its standard deviation would blow up rounding.
    """
    rows = averaged.detach()
    rounding = ROUNDING * torch.finfo(rows.dtype).eps * rows.abs().amax(1, keepdim=True)
    # What is not finite stays so.
    varies = ~(rows.std(1, correction=0, keepdim=True) <= rounding)
    normed = torch.nn.functional.layer_norm(averaged, averaged.shape[1:], eps=SMALLEST_VARIANCE)
    return torch.where(varies, normed, 0.0)


def standardised_arrays(averaged: Array) -> tuple[Array, Array]:
    """Compute the same from an array.

    Returns:
        The standardised rows, and the inverse of each one's standard deviation, ``(depth,)``,
        zero where there is none.
    """
    from timestepper.controllers import standardise_loops

    tolerance = ROUNDING * np.finfo(averaged.dtype).eps
    return standardise_loops.forward(averaged, tolerance, SMALLEST_VARIANCE)


def standardised_backward(grad: Array, normed: Array, inverse: Array) -> Array:
    """Compute the gradient of ``averaged`` from that of the standardised rows."""
    from timestepper.controllers import standardise_loops

    return standardise_loops.backward(grad, normed, inverse)
