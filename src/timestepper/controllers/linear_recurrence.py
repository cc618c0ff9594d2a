"""lstm+: step sizes that depend on the weights, by a linear recurrence along the blocks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from timestepper.controllers.arrays import Array, ArrayController, product, sigmoid_in_place
from timestepper.controllers.standardise import (
    standardised,
    standardised_arrays,
    standardised_backward,
)


class LinearRecurrenceController(ArrayController):
    """A recurrence along the blocks of a stage that is linear in its state.

        u_d = w̄_d, brought to zero mean and length 1
        x_d = tanh(W_in u_d + b_in)
        h_d = a ⊙ h_{d-1} + (1 - a) ⊙ x_d,   h_{-1} = 0
        Δt_d = σ(W_out h_d + b_out)

    The paper's LSTM ends as a constant (``results/controllers.md``). Two things are to keep this
    one from it: its input has length 1, whatever the scale and the number of the weights, so that a
    step of SGD neither leaves W_in as it is nor throws its outputs into saturation; and the weights
    have their say from the start, W_out being large enough that blocks differ (standard deviation
    about 0.05).

    A recurrence without nonlinearity (Martin and Cundy 2018, arXiv:1709.04057) passes gradients
    along any depth, and is one product with a lower triangular matrix for all blocks together. The
    decays a in (0, 1) are learned and start at memories of one block to the whole stage. Step
    sizes start around ``1 / sqrt(depth)`` (0.5 in a stage of one block): branches that end in a
    norm then add a variance of 1 to a stage's input, whatever its depth.

    Args:
        depth: number of blocks L_b in the stage.
        features: length of w̄_d.
        channels: C_b.
        hidden: C_b / r.
    """

    def __init__(self, depth: int, features: int, channels: int, hidden: int) -> None:
        super().__init__(depth, features, channels, hidden)
        self.project_in = nn.Linear(features, hidden)
        self.project_out = nn.Linear(hidden, channels)
        nn.init.normal_(self.project_in.weight, std=math.sqrt(2))
        nn.init.zeros_(self.project_in.bias)
        nn.init.normal_(self.project_out.weight, std=1 / math.sqrt(hidden))
        start = 0.5 if depth == 1 else depth**-0.5
        nn.init.constant_(self.project_out.bias, math.log(start / (1 - start)))
        # σ(decay) = exp(-1 / memory)
        memories = torch.logspace(0, 1, hidden, base=max(depth, 2))
        self.decay = nn.Parameter(-torch.expm1(1 / memories).log())

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes in (0, 1); see :meth:`Controller.forward`."""
        x = self.project_in(standardised(averaged) / math.sqrt(self.features)).tanh()
        log_decay = nn.functional.logsigmoid(self.decay)
        # What block j adds is still there at block d by a^(d - j): (hidden, depth, depth).
        blocks = torch.arange(self.depth, device=averaged.device)
        lags = (blocks[:, None] - blocks).clamp(min=0)
        kept = (log_decay[:, None, None] * lags).exp().tril()
        added = -torch.expm1(log_decay) * x
        h = torch.bmm(kept, added.t()[..., None])[..., 0].t()
        steps: Tensor = self.project_out(h).sigmoid()
        return steps

    def operands(self) -> tuple[Tensor, ...]:
        """Return W_in, b_in, what a is the sigmoid of, W_out and b_out."""
        return (
            *(self.project_in.weight, self.project_in.bias),
            self.decay,
            *(self.project_out.weight, self.project_out.bias),
        )

    def forward_arrays(self, averaged: Array, *operands: Array) -> tuple[Array, Any]:
        """See :meth:`ArrayController.forward_arrays`."""
        weight_in, bias_in, decay, weight_out, bias_out = operands
        normed, inverse = standardised_arrays(averaged)
        x = product(normed, weight_in.T)
        x /= math.sqrt(self.features)
        x += bias_in
        np.tanh(x, out=x)
        kept = sigmoid_in_place(decay.copy())
        h = (1 - kept) * x
        for d in range(1, self.depth):
            h[d] += kept * h[d - 1]
        steps = product(h, weight_out.T)
        steps += bias_out
        sigmoid_in_place(steps)
        return steps, (normed, inverse, x, kept, h, steps)

    def backward_arrays(
        self, grad_steps: Array, done: Any, averaged: Array, *operands: Array
    ) -> tuple[Array, ...]:
        """See :meth:`ArrayController.backward_arrays`."""
        weight_in, _, _, weight_out, _ = operands
        normed, inverse, x, kept, h, steps = done
        grad_out = grad_steps * steps
        grad_out *= 1 - steps
        grad_h = product(grad_out, weight_out)
        for d in range(self.depth - 2, -1, -1):
            grad_h[d] += kept * grad_h[d + 1]
        grad_decay = (grad_h[1:] * h[:-1]).sum(0) - (grad_h * x).sum(0)
        grad_decay *= kept * (1 - kept)
        grad_in = grad_h * (1 - kept)
        grad_in *= 1 - x * x
        root = math.sqrt(self.features)
        return (
            standardised_backward(product(grad_in, weight_in) / root, normed, inverse),
            product(grad_in.T, normed) / root,
            grad_in.sum(0),
            grad_decay,
            product(grad_out.T, h),
            grad_out.sum(0),
        )
