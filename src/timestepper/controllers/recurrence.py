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
        # The gradients of the gates i, f, o, g and of the cell before are linear in those of the
        # cell and of h: five rows of factors for each, for all blocks at once.
        zero = torch.zeros_like(i)
        of_cell = torch.stack([i * (1 - i) * g, f * (1 - f) * before, zero, i * (1 - g * g), f], 1)
        of_h = of_cell * (o * (1 - tanh * tanh))[:, None]
        of_h[:, 2] = o * (1 - o) * tanh
        grads_h = grad_outputs[0].unbind(0)
        transposed = weight.t()
        grad_cell = zero[0]
        grads: list[Tensor] = []
        for d, (cell_factors, h_factors) in enumerate(
            zip(of_cell.unbind(0)[::-1], of_h.unbind(0)[::-1], strict=True), start=1
        ):
            grad_h = grads_h[-d]
            if grads:
                grad_h = torch.addmv(grad_h, transposed, grads[-1])
            grad = torch.addcmul(cell_factors * grad_cell, h_factors, grad_h)
            grads.append(grad[:4].view(-1))
            grad_cell = grad[4]
        from_inputs = torch.stack(grads[::-1])
        return from_inputs, from_inputs[1:].t() @ hs[:-1]
