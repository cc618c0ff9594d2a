"""lstm+: step sizes that depend on the weights, by a linear recurrence along the blocks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from timestepper.controllers.arrays import Array, ArrayController
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
        steps: Tensor = self.project_out(_remembered(x, self.decay)).sigmoid()
        return steps

    def composed(self, averaged: Tensor, *operands: Tensor) -> Tensor:
        """See :meth:`ArrayController.composed`."""
        weight_in, bias_in, decay, weight_out, bias_out = operands
        normed = standardised(averaged) / math.sqrt(self.features)
        x = nn.functional.linear(normed, weight_in, bias_in).tanh()
        return nn.functional.linear(_remembered(x, decay), weight_out, bias_out).sigmoid()

    def operands(self) -> tuple[Tensor, ...]:
        """Return W_in, b_in, what a is the sigmoid of, W_out and b_out."""
        return (
            *(self.project_in.weight, self.project_in.bias),
            self.decay,
            *(self.project_out.weight, self.project_out.bias),
        )

    def forward_arrays(self, averaged: Array, *operands: Array) -> tuple[Array, Any]:
        """See :meth:`ArrayController.forward_arrays`."""
        from timestepper.controllers import loops

        normed, inverse = standardised_arrays(averaged)
        steps, x, kept, h = loops.linear_forward(normed, *operands)
        return steps, (normed, inverse, steps, x, kept, h)

    def backward_arrays(
        self, grad_steps: Array, done: Any, averaged: Array, *operands: Array
    ) -> tuple[Array, ...]:
        """See :meth:`ArrayController.backward_arrays`."""
        from timestepper.controllers import loops

        normed, inverse, steps, x, kept, h = done
        weight_in, _, _, weight_out, _ = operands
        grad, *grads = loops.linear_backward(
            grad_steps, steps, x, kept, h, normed, weight_in, weight_out
        )
        return standardised_backward(grad, normed, inverse), *grads


def _remembered(x: Tensor, decay: Tensor) -> Tensor:
    """Compute h of all blocks from x, both ``(depth, hidden)``."""
    log_decay = nn.functional.logsigmoid(decay)
    # What block j adds is still there at block d by a^(d - j): (hidden, depth, depth).
    blocks = torch.arange(len(x), device=x.device)
    lags = (blocks[:, None] - blocks).clamp(min=0)
    kept = (log_decay[:, None, None] * lags).exp().tril()
    added = -torch.expm1(log_decay) * x
    return torch.bmm(kept, added.t()[..., None])[..., 0].t()
