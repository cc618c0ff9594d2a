"""Products of small matrices and other loops that controllers have in common."""

from __future__ import annotations

import math

import numpy as np

from timestepper.compiled import compiled
from timestepper.controllers.arrays import Array


@compiled
def add_product(result: Array, left: Array, right: Array) -> None:
    """Add ``left @ right`` to the result."""
    for row in range(left.shape[0]):
        for k in range(left.shape[1]):
            factor = left[row, k]
            for column in range(right.shape[1]):
                result[row, column] += factor * right[k, column]


@compiled
def add_product_with_transposed(result: Array, left: Array, right: Array) -> None:
    """Add ``left @ right.T`` to the result."""
    for row in range(left.shape[0]):
        for column in range(right.shape[0]):
            total = result[row, column]
            for k in range(left.shape[1]):
                total += left[row, k] * right[column, k]
            result[row, column] = total


@compiled
def product_of_transposed(left: Array, right: Array) -> Array:
    """Compute ``left.T @ right``."""
    result = np.zeros((left.shape[1], right.shape[1]), right.dtype)
    for k in range(left.shape[0]):
        for row in range(left.shape[1]):
            factor = left[k, row]
            for column in range(right.shape[1]):
                result[row, column] += factor * right[k, column]
    return result


@compiled
def sum_of_rows(rows: Array) -> Array:
    """Add up the rows of a matrix."""
    result = np.zeros(rows.shape[1], rows.dtype)
    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            result[column] += rows[row, column]
    return result


@compiled
def sigmoid(z: float) -> float:
    """Compute σ(z) = 1 / (1 + exp(-z)); where exp overflows, it is 0."""
    return 1 / (1 + math.exp(-z))


@compiled
def step_sizes(h: Array, weight_out: Array, bias_out: Array) -> Array:
    """Compute ``Δt_d = σ(W_out h_d + b_out)`` of all blocks."""
    steps = np.zeros((len(h), len(bias_out)), h.dtype)
    add_product_with_transposed(steps, h, weight_out)
    for d in range(len(h)):
        for c in range(len(bias_out)):
            steps[d, c] = sigmoid(steps[d, c] + bias_out[c])
    return steps


@compiled
def step_sizes_backward(grad_steps: Array, steps: Array) -> Array:
    """Compute the gradient of what σ is applied to in :func:`step_sizes`."""
    grad = np.empty_like(steps)
    for d in range(steps.shape[0]):
        for c in range(steps.shape[1]):
            grad[d, c] = grad_steps[d, c] * steps[d, c] * (1 - steps[d, c])
    return grad
