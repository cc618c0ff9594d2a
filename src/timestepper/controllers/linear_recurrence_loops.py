"""The passes of lstm+ in compiled loops; see :class:`LinearRecurrenceController`."""

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
    normed: Array,
    weight_in: Array,
    bias_in: Array,
    decay: Array,
    weight_out: Array,
    bias_out: Array,
) -> tuple[Array, Array, Array, Array]:
    """Compute Δt of every block.

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
def backward(
    grad_steps: Array,
    steps: Array,
    x: Array,
    kept: Array,
    h: Array,
    normed: Array,
    weight_in: Array,
    weight_out: Array,
) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Compute the gradients of what :func:`forward` was given, in its order."""
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
