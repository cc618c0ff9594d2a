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
        total = averaged[d, 0]
        for k in range(1, features):
            total += averaged[d, k]
        mean = total / features
        squares = mean * 0
        largest = abs(averaged[d, 0])
        for k in range(features):
            normed[d, k] = averaged[d, k] - mean
            squares += normed[d, k] * normed[d, k]
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
        mean = along = grad[d, 0] * 0
        for k in range(features):
            mean += grad[d, k]
            along += grad[d, k] * normed[d, k]
        mean /= features
        along /= features
        for k in range(features):
            result[d, k] = (grad[d, k] - mean - normed[d, k] * along) * inverse[d]
    return result
