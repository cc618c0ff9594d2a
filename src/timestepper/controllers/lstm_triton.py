"""The LSTM's recurrence on a GPU: one kernel launch for all blocks, and one for their backward.

A stage is one program: its blocks wait for each other anyway, and its states fit one
multiprocessor. The recurrent weights are read again for each block, from the cache after the first.
"""
# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# ruff: noqa: ANN001, ANN202, N803

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

CHUNK = 16
"""How many columns of the recurrent weights are held at a time."""


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _forward(
    from_inputs,
    of_before,
    h,
    gates,
    cells,
    depth,
    hidden,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    rows = tl.arange(0, BLOCK)
    live = rows < hidden
    cell = tl.zeros([BLOCK], dtype=from_inputs.dtype.element_ty)
    for d in range(depth):
        at = d * 4 * hidden + rows
        z_i = tl.load(from_inputs + at, mask=live, other=0)
        z_f = tl.load(from_inputs + at + hidden, mask=live, other=0)
        z_o = tl.load(from_inputs + at + 2 * hidden, mask=live, other=0)
        z_g = tl.load(from_inputs + at + 3 * hidden, mask=live, other=0)
        if d > 0:
            for first in range(0, hidden, CHUNK):
                columns = first + tl.arange(0, CHUNK)
                there = columns < hidden
                before = tl.load(h + (d - 1) * hidden + columns, mask=there, other=0)[None, :]
                place = of_before + rows[:, None] * hidden + columns[None, :]
                both = live[:, None] & there[None, :]
                size = hidden * hidden
                z_i += tl.sum(tl.load(place, mask=both, other=0) * before, 1)
                z_f += tl.sum(tl.load(place + size, mask=both, other=0) * before, 1)
                z_o += tl.sum(tl.load(place + 2 * size, mask=both, other=0) * before, 1)
                z_g += tl.sum(tl.load(place + 3 * size, mask=both, other=0) * before, 1)
        i, f, o, g = tl.sigmoid(z_i), tl.sigmoid(z_f), tl.sigmoid(z_o), _tanh(z_g)
        cell = f * cell + i * g
        tl.store(gates + at, i, mask=live)
        tl.store(gates + at + hidden, f, mask=live)
        tl.store(gates + at + 2 * hidden, o, mask=live)
        tl.store(gates + at + 3 * hidden, g, mask=live)
        tl.store(cells + d * hidden + rows, cell, mask=live)
        tl.store(h + d * hidden + rows, o * _tanh(cell), mask=live)
        tl.debug_barrier()  # The next block's threads read h of all of these.


@triton.jit
def _backward(
    grad_h,
    of_before,
    gates,
    cells,
    grad_gates,
    depth,
    hidden,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    rows = tl.arange(0, BLOCK)
    live = rows < hidden
    grad_cell = tl.zeros([BLOCK], dtype=grad_h.dtype.element_ty)
    for back in range(depth):
        d = depth - 1 - back
        at = d * 4 * hidden + rows
        i = tl.load(gates + at, mask=live, other=0)
        f = tl.load(gates + at + hidden, mask=live, other=0)
        o = tl.load(gates + at + 2 * hidden, mask=live, other=0)
        g = tl.load(gates + at + 3 * hidden, mask=live, other=0)
        tanh = _tanh(tl.load(cells + d * hidden + rows, mask=live, other=0))
        before = tl.load(cells + (d - 1) * hidden + rows, mask=live & (d > 0), other=0)
        of_h = tl.load(grad_h + d * hidden + rows, mask=live, other=0)
        if back > 0:
            # Rows of the weights, all gates one below the other, times the next block's gradients.
            for first in range(0, 4 * hidden, CHUNK):
                gate = first + tl.arange(0, CHUNK)
                there = gate < 4 * hidden
                after = tl.load(grad_gates + (d + 1) * 4 * hidden + gate, mask=there, other=0)
                place = of_before + gate[:, None] * hidden + rows[None, :]
                weights = tl.load(place, mask=there[:, None] & live[None, :], other=0)
                of_h += tl.sum(weights * after[:, None], 0)
        grad_cell += of_h * o * (1 - tanh * tanh)
        tl.store(grad_gates + at, grad_cell * g * i * (1 - i), mask=live)
        tl.store(grad_gates + at + hidden, grad_cell * before * f * (1 - f), mask=live)
        tl.store(grad_gates + at + 2 * hidden, of_h * tanh * o * (1 - o), mask=live)
        tl.store(grad_gates + at + 3 * hidden, grad_cell * i * (1 - g * g), mask=live)
        grad_cell *= f
        tl.debug_barrier()  # The block before reads the gradients of all of these.


def recurrence(from_inputs: Tensor, of_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run the recurrence; see :func:`~timestepper.controllers.lstm_steps.recurrence`."""
    depth, hidden = len(from_inputs), of_before.shape[1]
    gates = torch.empty_like(from_inputs)
    h, cells = (from_inputs.new_empty(depth, hidden) for _ in range(2))
    block = triton.next_power_of_2(hidden)
    arguments = from_inputs.contiguous(), of_before.contiguous(), h, gates, cells
    with torch.cuda.device_of(h):
        _forward[(1,)](*arguments, depth, hidden, BLOCK=block, CHUNK=CHUNK)
    return h, gates, cells


def recurrence_backward(grad_h: Tensor, of_before: Tensor, gates: Tensor, cells: Tensor) -> Tensor:
    """Go back; see :func:`~timestepper.controllers.lstm_steps.recurrence_backward`."""
    depth, hidden = cells.shape
    grad_gates = torch.empty_like(gates)
    block = triton.next_power_of_2(hidden)
    arguments = grad_h.contiguous(), of_before.contiguous(), gates, cells, grad_gates
    with torch.cuda.device_of(cells):
        _backward[(1,)](*arguments, depth, hidden, BLOCK=block, CHUNK=CHUNK)
    return grad_gates


@torch.library.custom_op("timestepper::lstm_recurrence", mutates_args=())
def recurrence_operator(from_inputs: Tensor, of_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run :func:`recurrence` as one operator, into which torch.compile does not look."""
    return recurrence(from_inputs, of_before)


@recurrence_operator.register_fake
def _recurrence_shapes(from_inputs: Tensor, of_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    depth, hidden = len(from_inputs), of_before.shape[1]
    h, cells = (from_inputs.new_empty(depth, hidden) for _ in range(2))
    return h, torch.empty_like(from_inputs), cells


@torch.library.custom_op("timestepper::lstm_recurrence_backward", mutates_args=())
def recurrence_backward_operator(
    grad_h: Tensor, of_before: Tensor, gates: Tensor, cells: Tensor
) -> Tensor:
    """Run :func:`recurrence_backward` likewise."""
    return recurrence_backward(grad_h, of_before, gates, cells)


@recurrence_backward_operator.register_fake
def _gradient_shape(grad_h: Tensor, of_before: Tensor, gates: Tensor, cells: Tensor) -> Tensor:
    return torch.empty_like(gates)
