"""Standardised averages and their gradient in compiled loops; see :func:`standardised`."""

from __future__ import annotations

import math

import numpy as np

from timestepper.compiled import compiled
from timestepper.controllers.arrays import Array


@compiled
def forward(averaged: Array, tolerance: float, smallest_variance: float) -> tuple[Array, Array]:
    """Standardise each block's averages.

    Args:
        averaged: w̄, ``(depth, features)``.
        tolerance: a standard deviation up to this, relative to the largest average, is none.
        smallest_variance: what is added to variances.

    Returns:
        The standardised rows, and the inverse of each one's standard deviation, ``(depth,)``,
        zero where there is none.
    """
    depth, features = averaged.shape
    normed = np.empty_like(averaged)
    inverse = np.empty(depth, averaged.dtype)
    for d in range(depth):
        # From the first one on, in float64: sums of thousands have errors that look like variance.
        first = averaged[d, 0]
        shift = squares = largest = 0.0
        for k in range(features):
            shift += averaged[d, k] - first
        shift /= features
        for k in range(features):
            centred = averaged[d, k] - first - shift
            normed[d, k] = centred
            squares += centred * centred
            largest = max(largest, abs(averaged[d, k]))
        deviation = math.sqrt(squares / features)
        if deviation <= tolerance * largest:
            inverse[d] = 0
            normed[d] = 0
        else:
            inverse[d] = 1 / math.sqrt(squares / features + smallest_variance)
            normed[d] *= inverse[d]
    return normed, inverse


@compiled
def backward(grad: Array, normed: Array, inverse: Array) -> Array:
    """Compute the gradient of ``averaged`` from that of the standardised rows."""
    depth, features = grad.shape
    result = np.empty_like(grad)
    for d in range(depth):
        mean = along = 0.0
        for k in range(features):
            mean += grad[d, k]
            along += grad[d, k] * normed[d, k]
        mean /= features
        along /= features
        for k in range(features):
            result[d, k] = (grad[d, k] - mean - normed[d, k] * along) * inverse[d]
    return result
