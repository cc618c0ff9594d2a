"""What a solver returns."""

from __future__ import annotations

from dataclasses import dataclass

from timestepper.ode.problem import Array


@dataclass(frozen=True, slots=True)
class Attempt:
    """A step that was tried.

    Attributes:
        time: where it begins.
        step_size: Δt_j.
        error: the estimate |y_{j+1} - ŷ_{j+1}| (paper Eq. 5), the largest over y's elements;
            infinite where the step led to values that are not finite.
        accepted: the error is at most the tolerance; the next step begins where this one ends.
            After a rejected one the next attempt begins at the same time, with a smaller step.
    """

    time: float
    step_size: float
    error: float
    accepted: bool


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """An approximate solution of an initial value problem; its arrays are read-only.

    Attributes:
        times: t_0 … t_N, ``(N + 1,)``; the first is the start and the last exactly the end.
        states: y_0 … y_N, ``(N + 1, *shape of y0)``.
        step_sizes: Δt_0 … Δt_{N-1}, ``(N,)``.
        evaluations: how often f was evaluated, in rejected attempts too.
        attempts: every step that was tried, in order; none is recorded with a fixed step.
    """

    times: Array
    states: Array
    step_sizes: Array
    evaluations: int
    attempts: tuple[Attempt, ...] = ()

    def __post_init__(self) -> None:
        for array in (self.times, self.states, self.step_sizes):
            array.setflags(write=False)
