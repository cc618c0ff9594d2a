"""One constant step size, as in Euler's method with a fixed step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from timestepper.controllers.base import Controller
from timestepper.errors import ConfigurationError


class FixedController(Controller):
    """The same step size h for every block and channel (paper Eq. 1); no parameter.

    h is a buffer: like trained parameters it is in the state, and what is loaded replaces it.

    Args:
        depth: number of blocks.
        features: not used.
        channels: number of channels.
        hidden: not used.
        step_size: h, positive and finite; 1 is the ordinary residual network.

    Raises:
        ConfigurationError: h is not a positive finite number.
    """

    reads_weights = False
    h: Tensor

    def __init__(
        self, depth: int, features: int, channels: int, hidden: int, *, step_size: float
    ) -> None:
        super().__init__(depth, features, channels, hidden)
        if not (math.isfinite(step_size) and step_size > 0):
            raise ConfigurationError(
                f"a fixed step size must be positive and finite, not {step_size}"
            )
        self.register_buffer("h", torch.tensor(step_size, dtype=torch.float64))

    @property
    def step_size(self) -> float:
        """Return h as a number."""
        return self.h.item()

    def forward(self, averaged: Tensor) -> Tensor:
        """Return h, ``(depth, channels)``; of ``averaged`` only the dtype is read."""
        return self.h.to(averaged.dtype).repeat(self.depth, self.channels)

    def extra_repr(self) -> str:
        """Name the sizes and h, where it has a value."""
        sizes = super().extra_repr()
        return sizes if self.h.is_meta else f"{sizes}, step_size={self.step_size:g}"
