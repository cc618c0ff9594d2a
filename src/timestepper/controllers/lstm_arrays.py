"""The LSTM controller in numpy, by the formulas of :mod:`~timestepper.controllers.lstm_steps`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from timestepper.controllers.arrays import Array, product, sigmoid_in_place


@dataclass(frozen=True, slots=True)
class LSTMPass:
    """What the backward pass needs of the forward pass, all with a row for each block.

    Attributes:
        x: projected inputs, ``(depth, hidden)``.
        gates: i, f, o and g side by side, ``(depth, 4 * hidden)``.
        cells: ``(depth, hidden)``.
        tanh: of the cells, likewise.
        h: likewise.
        steps: Δt, ``(depth, channels)``.
    """

    x: Array
    gates: Array
    cells: Array
    tanh: Array
    h: Array
    steps: Array


def forward(
    averaged: Array,
    weight_in: Array,
    bias_in: Array,
    weight_gates: Array,
    bias_gates: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, LSTMPass]:
    """Compute Δt of every block; arguments as for :class:`LSTMSteps`."""
    hidden = len(bias_in)
    x = product(averaged, weight_in.T)
    x += bias_in
    np.maximum(x, 0, out=x)
    # With what goes into the sigmoids halved, all four gates are one tanh, see sigmoid_in_place.
    half = np.full(4 * hidden, 0.5, x.dtype)
    half[3 * hidden :] = 1
    gates = product(x, weight_gates[:, :hidden].T)
    gates += bias_gates
    gates *= half
    of_before = weight_gates[:, hidden:] * half[:, None]
    cells, tanh, h = (np.empty_like(x) for _ in range(3))
    for d, z in enumerate(gates):
        if d:
            z += of_before @ h[d - 1]
        np.tanh(z, out=z)
        sigmoids = z[: 3 * hidden]
        sigmoids *= 0.5
        sigmoids += 0.5
        cell = np.multiply(z[:hidden], z[3 * hidden :], out=cells[d])
        if d:
            cell += z[hidden : 2 * hidden] * cells[d - 1]
        np.tanh(cell, out=tanh[d])
        np.multiply(z[2 * hidden : 3 * hidden], tanh[d], out=h[d])
    steps = product(h, weight_out.T)
    steps += bias_out
    sigmoid_in_place(steps)
    return steps, LSTMPass(x, gates, cells, tanh, h, steps)


def backward(
    grad_steps: Array,
    done: LSTMPass,
    averaged: Array,
    weight_in: Array,
    bias_in: Array,
    weight_gates: Array,
    bias_gates: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, ...]:
    """Compute the gradients of what :func:`forward` was given, in its order."""
    x, cells, tanh, h, steps = done.x, done.cells, done.tanh, done.h, done.steps
    depth, hidden = h.shape
    grad_out = grad_steps * steps
    grad_out *= 1 - steps
    i, f, o, g = done.gates.reshape(depth, 4, hidden).swapaxes(0, 1)
    # The gradients of the gates i, f, o, g and of the cell before are linear in those of the
    # cell and of h: five rows of factors for each, for all blocks at once.
    of_cell = np.zeros((depth, 5, hidden), h.dtype)
    of_cell[:, 0] = i * (1 - i) * g
    of_cell[1:, 1] = (f * (1 - f))[1:] * cells[:-1]
    of_cell[:, 3] = i * (1 - g * g)
    of_cell[:, 4] = f
    of_h = of_cell * (o * (1 - tanh * tanh))[:, None]
    of_h[:, 2] = o * (1 - o) * tanh
    grads_h = product(grad_out, weight_out)
    to_before = np.ascontiguousarray(weight_gates[:, hidden:].T)
    grads = np.empty_like(of_h)
    grad_gates = grads.reshape(depth, -1)[:, : 4 * hidden]
    last = depth - 1
    for d in range(last, -1, -1):
        grad_h = grads_h[d]
        if d < last:
            grad_h += to_before @ grad_gates[d + 1]
        grad = np.multiply(of_h[d], grad_h, out=grads[d])
        if d < last:
            grad += of_cell[d] * grads[d + 1, 4]
    grad_in = product(grad_gates, weight_gates[:, :hidden])
    grad_in *= x > 0
    read = np.zeros((depth, 2 * hidden), h.dtype)
    read[:, :hidden] = x
    read[1:, hidden:] = h[:-1]
    return (
        product(grad_in, weight_in),
        product(grad_in.T, averaged),
        grad_in.sum(0),
        product(grad_gates.T, read),
        grad_gates.sum(0),
        product(grad_out.T, h),
        grad_out.sum(0),
    )
