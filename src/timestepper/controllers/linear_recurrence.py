"""lstm+: a controller that depends on the weights, and whose cost does not grow with depth."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from timestepper.controllers.base import Controller
from timestepper.controllers.standardise import standardised

GAIN = math.sqrt(10)
"""Root of how much faster than the network's a controller's parameters learn under SGD."""


class LinearRecurrenceController(Controller):
    """A gated recurrence along the blocks of a stage that is linear in its state.

    The paper's LSTM ends as a constant (``results/controllers.md``). Three things differ here:

    * It sees: each w̄_d is brought to zero mean and unit variance, and is joined by the block's
      position in the stage and the share of it that is left to go.
    * It remembers without saturating, by a linear recurrence (Martin and Cundy 2018,
      arXiv:1709.04057; Orvieto et al. 2023, arXiv:2303.06349): with ``x_d = ReLU(W_in w̄_d + b_in)``

          v_d = σ(W_g x_d + b_g) ⊙ tanh(W_v x_d + b_v)
          h_d = a ⊙ h_{d-1} + (1 - a) ⊙ v_d,   h_{-1} = 0
          Δt_d = σ(W_out h_d + b_out)

      The decays a in (0, 1) are learned and start at memories of one block to the whole stage.
      Being linear in h, all blocks are one product with a lower triangular matrix.
    * It learns fast: parameters are kept divided by :data:`GAIN` and multiplied by it where they
      are used, which under SGD is a learning rate 10 times that of the network.

    Step sizes start near ``1 / sqrt(depth)``, with which a stage adds to its input as much
    variance as the input has, whatever the depth.

    Args:
        depth: number of blocks L_b in the stage.
        features: length of w̄_d.
        channels: C_b.
        hidden: C_b / r.
    """

    lags: Tensor
    position: Tensor

    def __init__(self, depth: int, features: int, channels: int, hidden: int) -> None:
        super().__init__(depth, features, channels, hidden)
        self.project_in = nn.Linear(features + 2, hidden)
        self.gates = nn.Linear(hidden, 2 * hidden)
        self.decay = nn.Parameter(torch.empty(hidden))
        self.project_out = nn.Linear(hidden, channels)
        nn.init.kaiming_normal_(self.project_in.weight, nonlinearity="relu")
        nn.init.zeros_(self.project_in.bias)
        start = 0.5 if depth == 1 else depth**-0.5
        nn.init.constant_(self.project_out.bias, math.log(start / (1 - start)))
        memories = torch.logspace(0, 1, hidden, base=max(depth, 2))
        with torch.no_grad():
            # σ(decay) = exp(-1 / memory)
            self.decay.copy_(-torch.expm1(1 / memories).log())
            for parameter in self.parameters():
                parameter.div_(GAIN)
        blocks = torch.arange(depth, dtype=torch.get_default_dtype())
        self.register_buffer("lags", (blocks[:, None] - blocks).clamp(min=0), persistent=False)
        position = torch.stack([blocks, depth - 1 - blocks], dim=1) / depth
        self.register_buffer("position", position, persistent=False)

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes in (0, 1); see :meth:`Controller.forward`."""
        seen = torch.cat([standardised(averaged), self.position], dim=1)
        x = _times_gain(self.project_in, seen).relu()
        gate, value = _times_gain(self.gates, x).chunk(2, dim=1)
        log_decay = nn.functional.logsigmoid(GAIN * self.decay)
        # What block j adds is still there at block d by a^(d - j): (hidden, depth, depth).
        kept = (log_decay[:, None, None] * self.lags).exp().tril()
        added = gate.sigmoid() * value.tanh() * -torch.expm1(log_decay)
        h = torch.bmm(kept, added.t()[..., None])[..., 0].t()
        return _times_gain(self.project_out, h).sigmoid()


def _times_gain(linear: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer whose weight and bias are kept divided by :data:`GAIN`."""
    return torch.addmm(linear.bias, x, linear.weight.t(), beta=GAIN, alpha=GAIN)
