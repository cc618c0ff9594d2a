"""TSC_2fc: depends on the weights, remembers nothing."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from timestepper.controllers.base import Controller


class TwoLayerController(Controller):
    """Two linear layers for each block, shared with no other (paper, "Complexity Analysis").

    ``Δt_d = σ(W_out,d ReLU(W_in,d w̄_d + b_in,d) + b_out,d)``, the layers of all blocks held in one
    tensor each and applied in one batched product.
    """

    def __init__(self, depth: int, features: int, channels: int, hidden: int) -> None:
        super().__init__(depth, features, channels, hidden)
        self.weight_in = nn.Parameter(torch.empty(depth, features, hidden))
        self.bias_in = nn.Parameter(torch.empty(depth, hidden))
        self.weight_out = nn.Parameter(torch.empty(depth, hidden, channels))
        self.bias_out = nn.Parameter(torch.zeros(depth, channels))
        # The bounds that nn.Linear draws from, b_out apart.
        for parameter, fan_in in (
            (self.weight_in, features),
            (self.bias_in, features),
            (self.weight_out, hidden),
        ):
            bound = 1.0 / math.sqrt(fan_in)
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes in (0, 1); see :meth:`Controller.forward`."""
        hidden = torch.baddbmm(self.bias_in[:, None], averaged[:, None], self.weight_in).relu()
        return torch.baddbmm(self.bias_out[:, None], hidden, self.weight_out)[:, 0].sigmoid()
