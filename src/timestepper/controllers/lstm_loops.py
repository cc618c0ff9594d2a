"""The LSTM controller's passes in compiled loops; its formulas are those of paper Eq. 10 to 12."""

from __future__ import annotations

import math

import numpy as np

from timestepper.compiled import compiled
from timestepper.controllers.arrays import Array
from timestepper.controllers.loops import (
    add_product,
    add_product_with_transposed,
    product_of_transposed,
    sigmoid,
    step_sizes,
    step_sizes_backward,
    sum_of_rows,
)


@compiled
def forward(
    averaged: Array,
    weight_in: Array,
    bias_in: Array,
    weight_gates: Array,
    bias_gates: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, Array, Array, Array, Array]:
    """Compute Δt of every block.

    Args:
        averaged: w̄, ``(depth, features)``.
        weight_in: W_in, ``(hidden, features)``.
        bias_in: b_in, ``(hidden,)``.
        weight_gates: the gates' weights of x_d and h_{d-1}, ``(4 * hidden, 2 * hidden)``.
        bias_gates: the gates' biases, ``(4 * hidden,)``.
        weight_out: W_out, ``(channels, hidden)``.
        bias_out: b_out, ``(channels,)``.

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
def backward(
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
    """Compute the gradients of what :func:`forward` was given, in its order."""
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
