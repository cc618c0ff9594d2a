"""The controllers' passes over arrays, in compiled loops.

They are in one file: numba compiles a function again when its own file has changed, but does not
see that another, which it calls, has.
"""

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


@compiled
def lstm_forward(
    averaged: Array,
    weight_in: Array,
    bias_in: Array,
    weight_gates: Array,
    bias_gates: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Compute Δt of every block by the LSTM (paper Eq. 10 to 12).

    Arguments as for :class:`~.lstm_steps.LSTMSteps`.

    Returns:
        Δt, ``(depth, channels)``, and for the backward pass: x, ``(depth, hidden)``; the gates i,
        f, o and g side by side, ``(depth, 4 * hidden)``; the cells and h, ``(depth, hidden)``.

    Raises:
        ValueError: shapes do not fit. Nothing else would notice.
    """
    depth, features = averaged.shape
    hidden = len(bias_in)
    if (
        weight_in.shape != (hidden, features)
        or weight_gates.shape != (4 * hidden, 2 * hidden)
        or len(bias_gates) != 4 * hidden
        or weight_out.shape != (len(bias_out), hidden)
    ):
        raise ValueError("the shapes of the LSTM controller's parameters do not fit")
    x = np.zeros((depth, hidden), averaged.dtype)
    add_product_with_transposed(x, averaged, weight_in)
    for d in range(depth):
        for j in range(hidden):
            z = x[d, j] + bias_in[j]
            x[d, j] = 0 if z < 0 else z
    gates = np.zeros((depth, 4 * hidden), averaged.dtype)
    add_product_with_transposed(gates, x, weight_gates[:, :hidden])
    of_before = weight_gates[:, hidden:]
    cells, h = np.empty_like(x), np.empty_like(x)
    for d in range(depth):
        if d:
            add_product_with_transposed(gates[d : d + 1], h[d - 1 : d], of_before)
        for r in range(4 * hidden):
            z = gates[d, r] + bias_gates[r]
            gates[d, r] = sigmoid(z) if r < 3 * hidden else math.tanh(z)
        for j in range(hidden):
            cell = gates[d, j] * gates[d, 3 * hidden + j]
            if d:
                cell += gates[d, hidden + j] * cells[d - 1, j]
            cells[d, j] = cell
            h[d, j] = gates[d, 2 * hidden + j] * math.tanh(cell)
    return step_sizes(h, weight_out, bias_out), x, gates, cells, h


@compiled
def lstm_backward(
    grad_steps: Array,
    steps: Array,
    x: Array,
    gates: Array,
    cells: Array,
    h: Array,
    averaged: Array,
    weight_in: Array,
    weight_gates: Array,
    weight_out: Array,
) -> tuple[Array, Array, Array, Array, Array, Array, Array]:
    """Compute the gradients of what :func:`lstm_forward` was given, in its order."""
    depth, hidden = h.shape
    grad_out = step_sizes_backward(grad_steps, steps)
    grad_h = np.zeros_like(h)
    add_product(grad_h, grad_out, weight_out)
    of_before = weight_gates[:, hidden:]
    grad_gates = np.empty_like(gates)
    grad_cell = np.zeros(hidden, h.dtype)
    for d in range(depth - 1, -1, -1):
        if d < depth - 1:
            add_product(grad_h[d : d + 1], grad_gates[d + 1 : d + 2], of_before)
        for j in range(hidden):
            i, f = gates[d, j], gates[d, hidden + j]
            o, g = gates[d, 2 * hidden + j], gates[d, 3 * hidden + j]
            tanh = math.tanh(cells[d, j])
            of_cell = grad_cell[j] + grad_h[d, j] * o * (1 - tanh * tanh)
            before = cells[d - 1, j] if d else 0
            grad_gates[d, j] = of_cell * g * i * (1 - i)
            grad_gates[d, hidden + j] = of_cell * before * f * (1 - f)
            grad_gates[d, 2 * hidden + j] = grad_h[d, j] * tanh * o * (1 - o)
            grad_gates[d, 3 * hidden + j] = of_cell * i * (1 - g * g)
            grad_cell[j] = of_cell * f
    grad_in = np.zeros_like(x)
    add_product(grad_in, grad_gates, weight_gates[:, :hidden])
    read = np.zeros((depth, 2 * hidden), h.dtype)
    for d in range(depth):
        for j in range(hidden):
            if x[d, j] <= 0:
                grad_in[d, j] = 0
            read[d, j] = x[d, j]
            if d:
                read[d, hidden + j] = h[d - 1, j]
    grad_averaged = np.zeros_like(averaged)
    add_product(grad_averaged, grad_in, weight_in)
    return (
        grad_averaged,
        product_of_transposed(grad_in, averaged),
        sum_of_rows(grad_in),
        product_of_transposed(grad_gates, read),
        sum_of_rows(grad_gates),
        product_of_transposed(grad_out, h),
        sum_of_rows(grad_out),
    )


@compiled
def linear_forward(
    normed: Array,
    weight_in: Array,
    bias_in: Array,
    decay: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, Array, Array, Array]:
    """Compute Δt of every block by :class:`LinearRecurrenceController`.

    Args:
        normed: w̄, brought to zero mean and unit variance, ``(depth, features)``.
        weight_in: W_in, ``(hidden, features)``.
        bias_in: b_in, ``(hidden,)``.
        decay: what a is the sigmoid of, ``(hidden,)``.
        weight_out: W_out, ``(channels, hidden)``.
        bias_out: b_out, ``(channels,)``.

    Returns:
        Δt, ``(depth, channels)``, and for the backward pass: x, ``(depth, hidden)``; a,
        ``(hidden,)``; h, ``(depth, hidden)``.

    Raises:
        ValueError: shapes do not fit. Nothing else would notice.
    """
    depth, features = normed.shape
    hidden = len(bias_in)
    if (
        weight_in.shape != (hidden, features)
        or len(decay) != hidden
        or weight_out.shape != (len(bias_out), hidden)
    ):
        raise ValueError("the shapes of the controller's parameters do not fit")
    root = math.sqrt(features)
    kept = np.empty_like(decay)
    for j in range(hidden):
        kept[j] = sigmoid(decay[j])
    x = np.zeros((depth, hidden), normed.dtype)
    add_product_with_transposed(x, normed, weight_in)
    h = np.empty_like(x)
    for d in range(depth):
        for j in range(hidden):
            x[d, j] = math.tanh(x[d, j] / root + bias_in[j])
            added = (1 - kept[j]) * x[d, j]
            h[d, j] = added + kept[j] * h[d - 1, j] if d else added
    return step_sizes(h, weight_out, bias_out), x, kept, h


@compiled
def linear_backward(
    grad_steps: Array,
    steps: Array,
    x: Array,
    kept: Array,
    h: Array,
    normed: Array,
    weight_in: Array,
    weight_out: Array,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Compute the gradients of what :func:`linear_forward` was given, in its order."""
    depth, hidden = h.shape
    root = math.sqrt(normed.shape[1])
    grad_out = step_sizes_backward(grad_steps, steps)
    grad_h = np.zeros_like(h)
    add_product(grad_h, grad_out, weight_out)
    grad_in = np.empty_like(h)
    scaled = np.empty_like(h)
    grad_decay = np.zeros_like(kept)
    for d in range(depth - 1, -1, -1):
        for j in range(hidden):
            if d < depth - 1:
                grad_h[d, j] += kept[j] * grad_h[d + 1, j]
            before = h[d - 1, j] if d else 0
            grad_decay[j] += grad_h[d, j] * (before - x[d, j]) * kept[j] * (1 - kept[j])
            grad_in[d, j] = grad_h[d, j] * (1 - kept[j]) * (1 - x[d, j] * x[d, j])
            scaled[d, j] = grad_in[d, j] / root
    grad_normed = np.zeros_like(normed)
    add_product(grad_normed, scaled, weight_in)
    return (
        grad_normed,
        product_of_transposed(scaled, normed),
        sum_of_rows(grad_in),
        grad_decay,
        product_of_transposed(grad_out, h),
        sum_of_rows(grad_out),
    )
