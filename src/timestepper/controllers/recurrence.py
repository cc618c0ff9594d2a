"""The LSTM's recurrence along depth, with a backward pass written by hand.

Hidden sizes are small and depth may be hundreds of blocks, so that the cost is one of many tiny
operations. Here each block costs a handful of them, and nothing that could be done for all blocks
at once is done inside the loop.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


class LSTMRecurrence(torch.autograd.Function):
    """Run Eq. 11 over the blocks of a stage from ``h = c = 0``.

    Gates are laid out in the order i, f, o, g, so that the three sigmoids are one operation.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, from_inputs: Tensor, weight: Tensor) -> Tensor:
        """Compute h of every block.

        Args:
            ctx: keeps what backward needs.
            from_inputs: the part of the gates that comes from x_d and the biases,
                ``(depth, 4 * hidden)``.
            weight: the gates' weights of h_{d-1}, ``(4 * hidden, hidden)``.

        Returns:
            h, ``(depth, hidden)``.
        """
        hidden = weight.shape[1]
        hs: list[Tensor] = []
        cells: list[Tensor] = []
        gates: list[Tensor] = []
        for z in from_inputs.unbind(0):
            z = torch.addmv(z, weight, hs[-1]) if hs else z
            sigmoids, g = z[: 3 * hidden].sigmoid(), z[3 * hidden :].tanh()
            i, f, o = sigmoids.split(hidden)
            cell = torch.addcmul(i * g, f, cells[-1]) if cells else i * g
            cells.append(cell)
            hs.append(o * cell.tanh())
            gates += (sigmoids, g)
        result = torch.stack(hs)
        activations = torch.cat(gates).view(len(hs), 4, hidden)
        ctx.save_for_backward(weight, result, torch.stack(cells), activations)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grad_outputs: Any) -> Any:
        """Go back through the blocks, from the last to the first."""
        weight, hs, cells, activations = ctx.saved_tensors  # type: ignore[attr-defined]
        i, f, o, g = activations.unbind(1)
        before = torch.cat([torch.zeros_like(cells[:1]), cells[:-1]])
        tanh = cells.tanh()
        # What the gates' gradients are of the cell's and of h's, for all blocks at once.
        of_cell = torch.stack(
            [i * (1 - i) * g, f * (1 - f) * before, torch.zeros_like(i), i * (1 - g * g)], dim=1
        ).unbind(0)
        of_h = (o * (1 - o) * tanh).unbind(0)
        cell_of_h = (o * (1 - tanh * tanh)).unbind(0)
        forget = f.unbind(0)
        grads_h = grad_outputs[0].unbind(0)
        transposed = weight.t()
        grad_cell = torch.zeros_like(cells[0])
        grads: list[Tensor] = []
        for d in range(len(grads_h) - 1, -1, -1):
            grad_h = (
                torch.addmv(grads_h[d], transposed, grads[-1].view(-1)) if grads else grads_h[d]
            )
            grad_cell = torch.addcmul(grad_cell, grad_h, cell_of_h[d])
            grad_gates = of_cell[d] * grad_cell
            grad_gates[2] = of_h[d] * grad_h
            grads.append(grad_gates)
            grad_cell = grad_cell * forget[d]
        from_inputs = torch.stack(grads[::-1]).flatten(1)
        return from_inputs, from_inputs[1:].t() @ hs[:-1]
