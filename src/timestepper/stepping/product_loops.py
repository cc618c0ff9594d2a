"""What a stage's products take besides its controller, in compiled loops over tensors' memory."""
# mypy: disable-error-code="untyped-decorator"

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numba import types
from numba.extending import intrinsic

from timestepper.compiled import compiled
from timestepper.controllers.arrays import Array


def interpreted() -> bool:
    """Tell whether Python itself runs the loops (NUMBA_DISABLE_JIT), which it can't here."""
    return bool(numba.config.DISABLE_JIT)


@intrinsic
def _pointer(typing: Any, address: Any, like: Any) -> Any:
    """Turn an address into a pointer to numbers of an array's precision."""
    kind = types.CPointer(like.dtype)

    def build(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(kind))

    return kind(address, like), build


@compiled
def gather(addresses: Array, lengths: Array, values: Array) -> None:
    """Copy vectors, one behind the other.

    Args:
        addresses: where each lies.
        lengths: how many numbers each has.
        values: where they go.
    """
    at = 0
    for n in range(len(addresses)):
        vector = numba.carray(_pointer(addresses[n], values), lengths[n])
        for k in range(lengths[n]):
            values[at + k] = vector[k]
        at += lengths[n]


@compiled
def _add_up(rows: Array, sums: Array) -> None:
    """Add up rows, eight of them at a time as one: one alone is too short for vector registers."""
    together, width = len(rows) // 8, rows.shape[1]
    sums[:] = 0
    for n in range(8 * together, len(rows)):
        for k in range(width):
            sums[k] += rows[n, k]
    if not together:
        return
    joined = rows[: 8 * together].reshape(together, 8 * width)
    parts = np.zeros(8 * width, rows.dtype)
    for n in range(together):
        for k in range(8 * width):
            parts[k] += joined[n, k]
    half = 4 * width
    while half >= width:
        for k in range(half):
            parts[k] += parts[half + k]
        half //= 2
    for k in range(width):
        sums[k] += parts[k]


@compiled
def average(addresses: Array, sizes: Array, inputs_last: Array, averages: Array) -> None:
    """Average weights over their input dimension, one behind the other.

    Args:
        addresses: where each weight lies.
        sizes: outputs, inputs and numbers in the kernel of each, ``(weights, 3)``.
        inputs_last: whether its inputs lie side by side (channels_last), of each.
        averages: where they go.
    """
    at = 0
    for n in range(len(addresses)):
        outputs, inputs, kernel = sizes[n]
        address = addresses[n]
        if inputs_last[n] or kernel == 1:
            by_place = numba.carray(_pointer(address, averages), (outputs * kernel, inputs))
            for place in range(outputs * kernel):
                total = by_place[place, 0]
                for i in range(1, inputs):
                    total += by_place[place, i]
                averages[at + place] = total / inputs
        else:
            by_input = numba.carray(_pointer(address, averages), (outputs, inputs, kernel))
            for o in range(outputs):
                sums = averages[at + o * kernel : at + (o + 1) * kernel]
                _add_up(by_input[o], sums)
                sums /= inputs
        at += outputs * kernel


@compiled
def read(
    addresses: Array, lengths: Array, sizes: Array, inputs_last: Array, averages: Array
) -> Array:
    """Gather vectors, and average the weights that follow them; return the vectors' values.

    Args:
        addresses: where each of the vectors and of the weights lies.
        lengths: of the vectors, see :func:`gather`.
        sizes: of the weights, see :func:`average`.
        inputs_last: likewise.
        averages: likewise.
    """
    vectors = len(lengths)
    values = np.empty(lengths.sum(), averages.dtype)
    gather(addresses[:vectors], lengths, values)
    average(addresses[vectors:], sizes, inputs_last, averages)
    return values


@compiled
def multiply(runs: Array, steps: Array, values: Array) -> Array:
    """Multiply the values of vectors by step sizes.

    Args:
        runs: (start, length): so many step sizes from start on, or ones where it is -1.
        steps: all of the stage.
        values: the vectors' values, one behind the other; others may follow.
    """
    products = np.empty(runs[:, 1].sum(), values.dtype)
    at = 0
    for start, length in runs:
        for k in range(length):
            products[at + k] = values[at + k] * steps[start + k] if start >= 0 else values[at + k]
        at += length
    return products


@compiled
def multiply_backward(
    addresses: Array, lengths: Array, runs: Array, steps: Array, values: Array
) -> tuple[Array, Array]:
    """Compute the gradients of the step sizes and of vectors' values from those of the products.

    Args:
        addresses: where the gradient of each product lies.
        lengths: how many numbers each has.
        runs: as for :func:`multiply`.
        steps: likewise.
        values: likewise.
    """
    grad = np.empty(lengths.sum(), values.dtype)
    gather(addresses, lengths, grad)
    grad_steps = np.zeros_like(steps)
    grad_values = np.empty_like(grad)
    at = 0
    for start, length in runs:
        for k in range(length):
            factor = steps[start + k] if start >= 0 else 1
            grad_values[at + k] = grad[at + k] * factor
            if start >= 0:
                grad_steps[start + k] += grad[at + k] * values[at + k]
        at += length
    return grad_steps, grad_values
