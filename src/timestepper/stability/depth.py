"""Where along depth the states y_0 … y_D of a network lie, and of what size they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, takewhile

from torch import Tensor, nn

from timestepper.errors import StabilityError
from timestepper.stability.unrolled import Step, UnrolledNetwork, Values
from timestepper.stepping import step_sizes
from timestepper.stepping.factors import channels_of


@dataclass(frozen=True, slots=True)
class SizeStage:
    """States of the same size that follow each other: y_first … y_last.

    Attributes:
        name: what the names of its steps' stages have in common.
        first: the number of its first state.
        last: the number of its last state, which counts.
    """

    name: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Depth:
    """The states y_0 … y_D along depth.

    Attributes:
        names: the branch that each of the D steps takes.
        stages: the stage of each step; those of attention and MLP alternate, say.
        times: T_n = Σ_{d<n} Δt_d of each state, averaged over channels (paper Eq. 9): T_0 = 0, and
            a step without step sizes counts 1.
        sizes: (channels, positions) of each state.
    """

    names: tuple[str, ...]
    stages: tuple[str, ...]
    times: tuple[float, ...]
    sizes: tuple[tuple[int, int], ...]

    def size_stages(self) -> list[SizeStage]:
        """Cut the states where their size changes."""
        runs = [list(run) for _, run in groupby(range(len(self.sizes)), self.sizes.__getitem__)]
        return [SizeStage(self._name(run), run[0], run[-1]) for run in runs]

    def _name(self, states: Sequence[int]) -> str:
        """Name a run of states after the steps that lead to them; y_0 by itself has none."""
        stages = [self.stages[state - 1].split(".") for state in states if state]
        levels = takewhile(lambda level: len(set(level)) == 1, zip(*stages, strict=False))
        return ".".join(level[0] for level in levels)


def states_of(unrolled: UnrolledNetwork, values: Values) -> list[Tensor]:
    """Pick y_0 … y_D out of the results of all operations.

    Raises:
        StabilityError: a state has no image in each row.
    """
    indices = [unrolled.input_state, *(step.state for step in unrolled.steps)]
    states: list[Tensor] = [values[index] for index in indices]
    for number, state in enumerate(states):
        if state.ndim < 2 or len(state) != unrolled.example_shape[0]:
            raise StabilityError(
                f"state y_{number} has shape {tuple(state.shape)}: what belongs to one of "
                f"{unrolled.example_shape[0]} images can't be told"
            )
    return states


def per_channel(unrolled: UnrolledNetwork, states: Sequence[Tensor]) -> list[Tensor]:
    """Bring states into the shape ``(images, channels, positions)``.

    Args:
        unrolled: the network.
        states: y_0 … y_D, of shape ``(n, channels)``, ``(n, channels, height, width)``,
            ``(n, tokens, channels)`` or ``(n, height, width, channels)``.
    """
    axes = [
        _channel_axis(unrolled, step, state)
        for step, state in zip(unrolled.steps, states[1:], strict=True)
    ]
    return [
        state.movedim(axis, 1).reshape(len(state), state.shape[axis], -1)
        for axis, state in zip([axes[0], *axes], states, strict=True)
    ]


def _channel_axis(unrolled: UnrolledNetwork, step: Step, state: Tensor) -> int:
    """Find the axis of a step's channels; where it has one step size only, guess by the shape."""
    if state.ndim != 4:
        return -1
    channels = channels_of(unrolled.network, step.branch)
    return 1 if step.branch.single or state.shape[1] == channels else -1


def describe_depth(
    network: nn.Module, unrolled: UnrolledNetwork, states: Sequence[Tensor]
) -> Depth:
    """Say where the states of a network lie.

    Args:
        network: the network itself, attached or plain.
        unrolled: the same network unrolled.
        states: y_0 … y_D.
    """
    means = {}
    if hasattr(network, "time_stepping"):
        means = {name: row.double().mean().item() for name, row in step_sizes(network).items()}
    names = [step.branch.name for step in unrolled.steps]
    return Depth(
        names=tuple(names),
        stages=tuple(step.branch.stage for step in unrolled.steps),
        times=tuple(accumulate((means.get(name, 1.0) for name in names), initial=0.0)),
        sizes=tuple((state.shape[1], state.shape[2]) for state in per_channel(unrolled, states)),
    )
