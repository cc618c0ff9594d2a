"""TSC_indp: step sizes that are parameters."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from timestepper.controllers.base import Controller


class IndependentController(Controller):
    """An explicit trainable vector for each block (paper, "Complexity Analysis").

    It sees no weights, goes through the same sigmoid as the other controllers and starts at zero:
    every step size starts at 0.5.
    """

    reads_weights = False

    def __init__(self, depth: int, features: int, channels: int, hidden: int) -> None:
        super().__init__(depth, features, channels, hidden)
        self.logits = nn.Parameter(torch.zeros(depth, channels))

    def forward(self, averaged: Tensor) -> Tensor:
        """Compute step sizes in (0, 1); ``averaged`` is not read."""
        return self.logits.sigmoid()
