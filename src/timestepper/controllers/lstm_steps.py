"""The LSTM controller as one operation, with a backward pass written by hand.

Hidden sizes are small and depth may be hundreds of blocks, so that the cost is one of many tiny
operations. Here each block costs a handful of them, or on a GPU all blocks together one kernel;
nothing that could be done for all blocks at once is done inside the loop, and autograd sees a
single node.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from timestepper.controllers.second_gradients import second_gradients
from timestepper.controllers.transforms import stand_for_many


def recurrence(from_inputs: Tensor, of_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM along the blocks from ``h = c = 0``.

    Args:
        from_inputs: what the gates get from their inputs and biases, ``(depth, 4 * hidden)``.
        of_before: their weights of ``h_{d-1}``, ``(4 * hidden, hidden)``.

    Returns:
        h, ``(depth, hidden)``; the gates i, f, o, g, ``(depth, 4 * hidden)``; and the cells,
        ``(depth, hidden)``.
    """
    hidden = of_before.shape[1]
    hs: list[Tensor] = []
    cells: list[Tensor] = []
    gates: list[Tensor] = []
    for z in from_inputs.unbind(0):
        z = torch.addmv(z, of_before, hs[-1]) if hs else z
        sigmoids, g = z[: 3 * hidden].sigmoid(), z[3 * hidden :].tanh()
        i, f, o = sigmoids.split(hidden)
        cell = torch.addcmul(i * g, f, cells[-1]) if cells else i * g
        cells.append(cell)
        hs.append(o * cell.tanh())
        gates += (sigmoids, g)
    return torch.stack(hs), torch.cat(gates).view(len(hs), 4 * hidden), torch.stack(cells)


def recurrence_backward(grad_h: Tensor, of_before: Tensor, gates: Tensor, cells: Tensor) -> Tensor:
    """Go back through the blocks, from the last to the first.

    Args:
        grad_h: what h gets from the step sizes alone, ``(depth, hidden)``.
        of_before: as for :func:`recurrence`.
        gates: as it returned them.
        cells: likewise.

    Returns:
        The gradient of ``from_inputs``, ``(depth, 4 * hidden)``.
    """
    depth, hidden = cells.shape
    i, f, o, g = gates.view(depth, 4, hidden).unbind(1)
    zeros = torch.zeros_like(cells[:1])
    before = torch.cat([zeros, cells[:-1]])
    tanh = cells.tanh()
    # The gradients of the gates i, f, o, g and of the cell before are linear in those of the
    # cell and of h: five rows of factors for each, for all blocks at once.
    of_cell = torch.stack(
        [i * (1 - i) * g, f * (1 - f) * before, torch.zeros_like(i), i * (1 - g * g), f], 1
    )
    of_h = of_cell * (o * (1 - tanh * tanh))[:, None]
    of_h[:, 2] = o * (1 - o) * tanh
    transposed = of_before.t()
    grads_h = grad_h.unbind(0)
    grad_cell = zeros[0]
    grads: list[Tensor] = []
    for d, (cell_factors, h_factors) in enumerate(
        zip(of_cell.unbind(0)[::-1], of_h.unbind(0)[::-1], strict=True), start=1
    ):
        of_this = grads_h[-d]
        if grads:
            of_this = torch.addmv(of_this, transposed, grads[-1])
        grad = torch.addcmul(cell_factors * grad_cell, h_factors, of_this)
        grads.append(grad[:4].view(-1))
        grad_cell = grad[4]
    return torch.stack(grads[::-1])


def composed(averaged: Tensor, *operands: Tensor) -> Tensor:
    """Compute the same as :class:`LSTMSteps` in operations that have derivatives of any order.

    Args:
        averaged: w̄, ``(depth, features)``.
        *operands: the other arguments of :class:`LSTMSteps`.
    """
    weight_in, bias_in, weight_gates, bias_gates, weight_out, bias_out = operands
    hidden = len(bias_in)
    x = torch.addmm(bias_in, averaged, weight_in.t()).relu()
    from_inputs = torch.addmm(bias_gates, x, weight_gates[:, :hidden].t())
    h, _, _ = recurrence(from_inputs, weight_gates[:, hidden:])
    return torch.addmm(bias_out, h, weight_out.t()).sigmoid()


_HAS_TRITON = find_spec("triton") is not None


def _fits_a_kernel(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.dtype in (torch.float32, torch.float64) and _HAS_TRITON


def _kernels() -> ModuleType:
    """Import what there is for GPUs only where it is used: it takes Triton and time."""
    from timestepper.controllers import lstm_triton

    return lstm_triton


def _run(from_inputs: Tensor, of_before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if not _fits_a_kernel(from_inputs):
        return recurrence(from_inputs, of_before)
    compiling = torch.compiler.is_compiling()
    run = _kernels().recurrence_operator if compiling else _kernels().recurrence
    found: tuple[Tensor, Tensor, Tensor] = run(from_inputs, of_before)
    return found


def _run_back(grad_h: Tensor, of_before: Tensor, gates: Tensor, cells: Tensor) -> Tensor:
    arguments = grad_h, of_before, gates, cells
    if not _fits_a_kernel(grad_h):
        return recurrence_backward(*arguments)
    compiling = torch.compiler.is_compiling()
    run = _kernels().recurrence_backward_operator if compiling else _kernels().recurrence_backward
    found: Tensor = run(*arguments)
    return found


class LSTMSteps(torch.autograd.Function):
    """Step sizes from averaged weights, Eq. 10 to 12, from ``h = c = 0``.

    Gates are laid out in the order i, f, o, g, so that the three sigmoids are one operation.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        averaged: Tensor,
        weight_in: Tensor,
        bias_in: Tensor,
        weight_gates: Tensor,
        bias_gates: Tensor,
        weight_out: Tensor,
        bias_out: Tensor,
    ) -> Tensor:
        """Compute Δt of every block.

        Args:
            ctx: keeps what backward needs.
            averaged: w̄, ``(depth, features)``.
            weight_in: W_in, ``(hidden, features)``.
            bias_in: b_in, ``(hidden,)``.
            weight_gates: the gates' weights of x_d and h_{d-1}, ``(4 * hidden, 2 * hidden)``.
            bias_gates: the gates' biases, ``(4 * hidden,)``.
            weight_out: W_out, ``(channels, hidden)``.
            bias_out: b_out, ``(channels,)``.

        Returns:
            Δt, ``(depth, channels)``.
        """
        hidden = len(bias_in)
        x = torch.addmm(bias_in, averaged, weight_in.t()).relu_()
        # Everything that does not wait for the block before is one matrix product for all blocks.
        from_inputs = torch.addmm(bias_gates, x, weight_gates[:, :hidden].t())
        h, gates, cells = _run(from_inputs, weight_gates[:, hidden:])
        steps = torch.addmm(bias_out, h, weight_out.t()).sigmoid_()
        operands = weight_in, bias_in, weight_gates, bias_gates, weight_out, bias_out
        ctx.save_for_backward(averaged, *operands, x, gates, cells, h, steps)
        return steps

    @staticmethod
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        """Go back through the blocks, from the last to the first."""
        # Dynamo knows neither question.
        if not torch.compiler.is_compiling() and (
            torch.is_grad_enabled() or stand_for_many(grad_outputs)
        ):
            inputs = ctx.saved_tensors[:7]  # type: ignore[attr-defined]
            return second_gradients(composed, inputs, grad_outputs[0])
        device = grad_outputs[0].device.type
        low_precision = torch.compiler.is_compiling() or torch.amp.is_autocast_available(device)
        # Compiled, this would run under the autocast of the forward pass.
        with (
            torch.no_grad(),
            torch.autocast(device, enabled=False) if low_precision else nullcontext(),
        ):
            return _gradients(ctx, grad_outputs[0])


def _gradients(ctx: FunctionCtx, grad_steps: Tensor) -> tuple[Tensor | None, ...]:
    averaged, weight_in, _, weight_gates, _, weight_out, _, x, gates, cells, h, steps = (
        ctx.saved_tensors  # type: ignore[attr-defined]
    )
    hidden = h.shape[1]
    grad_out = grad_steps * (steps * (1 - steps))
    grad_gates = _run_back(grad_out @ weight_out, weight_gates[:, hidden:], gates, cells)
    grad_in = (grad_gates @ weight_gates[:, :hidden]) * (x > 0)
    asked_for: tuple[bool, ...] = ctx.needs_input_grad  # type: ignore[attr-defined]
    of_averaged = grad_in @ weight_in if asked_for[0] else None
    if not any(asked_for[1:]):
        return of_averaged, *[None] * 6
    before = torch.cat([torch.zeros_like(h[:1]), h[:-1]])
    return (
        of_averaged,
        grad_in.t() @ averaged,
        grad_in.sum(0),
        grad_gates.t() @ torch.cat([x, before], dim=1),
        grad_gates.sum(0),
        grad_out.t() @ h,
        grad_out.sum(0),
    )
