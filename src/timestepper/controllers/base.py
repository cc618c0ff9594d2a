"""What every controller is: averaged weights in, step sizes out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class Controller(nn.Module, ABC):
    """Computes the step sizes of all blocks of one stage in one call (paper Eq. 10 to 12).

    Args:
        depth: number of residual branches in the stage.
        features: length of a branch's averaged weights w̄.
        channels: number of channels C of the stage, one step size each.
        hidden: width C/r of the controller, r the reduction.

    Attributes:
        reads_weights: whether the controller looks at the averaged weights at all. Where it does
            not, averaging is skipped and ``averaged`` arrives with shape ``(depth, 0)``.
    """

    reads_weights: bool = True

    def __init__(self, depth: int, features: int, channels: int, hidden: int) -> None:
        super().__init__()
        self.depth = depth
        self.features = features
        self.channels = channels
        self.hidden = hidden

    @abstractmethod
    def forward(self, averaged: Tensor) -> Tensor:
        """Compute the step sizes of a stage.

        Args:
            averaged: the branches' averaged weights in order of depth, ``(depth, features)``,
                floating point.

        Returns:
            Step sizes Δt, ``(depth, channels)``, of the same dtype and on the same device.
        """

    def extra_repr(self) -> str:
        """Name the sizes, for ``print(network)``."""
        return (
            f"depth={self.depth}, features={self.features}, "
            f"channels={self.channels}, hidden={self.hidden}"
        )


ControllerFactory = Callable[[int, int, int, int], nn.Module]
"""``(depth, features, channels, hidden)`` to a module from ``(depth, features)`` to
``(depth, channels)``; every :class:`Controller` class is one."""
