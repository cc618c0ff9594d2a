"""One constant step size, as in Euler's method with a fixed step."""

from __future__ import annotations

import math

from torch import Tensor

from timestepper.controllers.base import Controller
from timestepper.errors import ConfigurationError


class FixedController(Controller):
    """The same step size h for every block and channel (paper Eq. 1); no parameter, no buffer.

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

    def __init__(
        self, depth: int, features: int, channels: int, hidden: int, *, step_size: float
    ) -> None:
        super().__init__(depth, features, channels, hidden)
        if not (math.isfinite(step_size) and step_size > 0):
            raise ConfigurationError(
                f"a fixed step size must be positive and finite, not {step_size}"
            )
        self.step_size = step_size

    def forward(self, averaged: Tensor) -> Tensor:
        """Return h, ``(depth, channels)``; of ``averaged`` only dtype and device are read."""
        return averaged.new_full((self.depth, self.channels), self.step_size)

    def extra_repr(self) -> str:
        """Name the sizes and h."""
        return f"{super().extra_repr()}, step_size={self.step_size}"
