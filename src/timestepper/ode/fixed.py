"""A fixed step size."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from timestepper.errors import SolverError
from timestepper.ode.problem import Problem, RightHandSide
from timestepper.ode.solution import Solution
from timestepper.ode.tableaus import EULER, Tableau, combine

REMAINDER = 1e-9
"""A remainder of less than this part of a step is rounding, and no step of its own."""


def solve_fixed(
    f: RightHandSide,
    y0: ArrayLike,
    start: float,
    end: float,
    *,
    step_size: float,
    tableau: Tableau = EULER,
) -> Solution:
    """Solve dy/dt = f(t, y), y(start) = y0 with one step size; by default with forward Euler.

    Every step has the size given, but for the last: it ends at ``end`` and is shorter where the
    size does not divide the interval.

    Args:
        f: the time and y (float64, of ``y0``'s shape) to dy/dt, of the same shape.
        y0: the initial value, a number or an array.
        start: its time.
        end: the time up to which to solve.
        step_size: h.
        tableau: the method.

    Returns:
        The solution at all steps.

    Raises:
        ConfigurationError: the end is not after the start, or the step size is not positive.
        SolverError: y0, or what f returns, is not what it must be; or y became infinite or NaN.
    """
    problem = Problem(f, y0, start, end)
    start, end = problem.start, problem.end
    step_size = problem.require_step("step_size", step_size)
    steps = max(1, math.ceil((end - start) / step_size - REMAINDER))
    # Not summed up, so that rounding does not add up either.
    times = [*(start + j * step_size for j in range(steps)), end]
    step_sizes = [*(step_size for _ in range(steps - 1)), end - times[-2]]
    states = [problem.initial]
    for time, size in zip(times, step_sizes, strict=False):
        # What is too large for float64 is reported below.
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = tableau.slopes(problem, time, states[-1], size)
            following = states[-1] + size * combine(tableau.weights, slopes)
        if not np.isfinite(following).all():
            raise SolverError(
                f"y is not finite after the step at t = {time:.6g}; take a smaller step_size, "
                "or an earlier end if the solution itself is not finite there"
            )
        states.append(following)
    return Solution(np.array(times), np.stack(states), np.array(step_sizes), problem.evaluations)
