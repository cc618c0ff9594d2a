"""The states that inputs go through, against evolution time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor, nn

from timestepper.stability.apart import outside_modes
from timestepper.stability.depth import Depth, describe_depth, per_channel, states_of
from timestepper.stability.unrolled import unroll
from timestepper.stepping import Branch


@dataclass(frozen=True, slots=True, eq=False)
class Trajectory:
    """The states y_0 … y_D of a batch of inputs.

    Attributes:
        depth: where the states lie.
        states: as the network has them, such as ``(n, channels, height, width)``; where stages
            change, so does the shape.
        features: the same averaged over positions, ``(n, channels)``, as global average pooling
            does for a classifier.
    """

    depth: Depth
    states: tuple[Tensor, ...]
    features: tuple[Tensor, ...]


@outside_modes()
def trajectory(
    network: nn.Module, inputs: Tensor, branches: Iterable[Branch] | None = None
) -> Trajectory:
    """Compute the state after each step y_{d+1} = y_d + Δt_d ⊗ F(y_d, w_d) (paper Eq. 13).

    Args:
        network: attached, folded or plain, in eval mode; it stays as it is.
        inputs: a batch, ``(n, channels, height, width)`` for images.
        branches: the branches, as :func:`~timestepper.stability.unrolled.unroll` takes them.

    Raises:
        NoBranchError: no residual branch was found.
        StabilityError: the network can't be unrolled.
    """
    unrolled = unroll(network, inputs, branches)
    states = states_of(unrolled, unrolled.evaluate(inputs))
    return Trajectory(
        depth=describe_depth(network, unrolled, states),
        states=tuple(states),
        features=tuple(state.mean(2) for state in per_channel(unrolled, states)),
    )
