"""Step sizes that adapt to an estimate of the error."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from timestepper.errors import ConfigurationError, SolverError
from timestepper.ode.problem import Problem, RightHandSide, require_positive
from timestepper.ode.solution import Attempt, Solution
from timestepper.ode.tableaus import FEHLBERG, Tableau, combine

FIRST_PART = 0.01
"""The part of the interval that is tried first where no first step is given."""

SHRINK, GROW = 0.1, 5.0
"""The least and the largest factor from a step size to the next, for errors from ∞ to 0."""


def next_step_size(
    step_size: float, error: float, tolerance: float, *, safety: float, order: int
) -> float:
    """Choose a step size from the one before and its error (paper Eq. 6).

    Δt_{j+1} = k Δt_j (Tol / |y_{j+1} - ŷ_{j+1}|)^{1/(p+1)}, where the factor of Δt_j is kept
    within :data:`SHRINK` and :data:`GROW`, so that an error of zero has a next step too.

    Args:
        step_size: Δt_j.
        error: |y_{j+1} - ŷ_{j+1}|, from 0 to ∞.
        tolerance: Tol.
        safety: k.
        order: p.
    """
    factor = safety * (tolerance / error) ** (1 / (order + 1)) if error > 0 else GROW
    return step_size * min(max(factor, SHRINK), GROW)


def solve_adaptive(
    f: RightHandSide,
    y0: ArrayLike,
    start: float,
    end: float,
    *,
    tolerance: float,
    first_step: float | None = None,
    safety: float = 0.9,
    tableau: Tableau = FEHLBERG,
) -> Solution:
    """Solve dy/dt = f(t, y), y(start) = y0 with adaptive steps; by default with Fehlberg's 4(5).

    A step is accepted where its error estimate, the largest |y_{j+1} - ŷ_{j+1}| over y's elements
    (paper Eq. 5), is at most the tolerance; else it is tried again. In both cases Eq. 6 chooses the
    next step size, see :func:`next_step_size`. As in the paper, y_{j+1}, of order p, is carried
    on, and ŷ_{j+1}, of order p + 1, only estimates its error. A step that would reach beyond
    ``end`` is cut so as to end there.

    Args:
        f: the time and y (float64, of ``y0``'s shape) to dy/dt, of the same shape.
        y0: the initial value, a number or an array.
        start: its time.
        end: the time up to which to solve.
        tolerance: Tol, in the unit of y: of the error of one step, not of all of them.
        first_step: the first step size to try; by default a hundredth of the interval.
        safety: k, above 0 and below 1: below 1 so that a rejected step becomes smaller.
        tableau: the method, one with a comparison.

    Returns:
        The solution at the accepted steps, with every attempt.

    Raises:
        ConfigurationError: the end is not after the start; tolerance, first step or safety are
            impossible; or the method has nothing to compare with.
        SolverError: y0, or what f returns, is not what it must be; or the step size became too
            small.
    """
    problem = Problem(f, y0, start, end)
    start, end = problem.start, problem.end
    tolerance, safety = require_positive("tolerance", tolerance), float(safety)
    if not 0 < safety < 1:
        raise ConfigurationError(f"safety must be above 0 and below 1, not {safety}")
    if not tableau.comparison:
        raise ConfigurationError(
            "the method has no comparison to estimate errors with; use solve_fixed"
        )
    step = FIRST_PART * (end - start) if first_step is None else first_step
    step = problem.require_step("first_step", step)
    # Multiplied with the slopes this loses less to rounding than the difference of two results.
    difference = np.subtract(tableau.weights, tableau.comparison)
    times, states, step_sizes = [start], [problem.initial], list[float]()
    attempts: list[Attempt] = []
    while times[-1] < end:
        time, state = times[-1], states[-1]
        if step < problem.smallest_step:
            cause = (
                "f or y is not finite just after it; end before it"
                if math.isinf(attempts[-1].error)
                else "y has no bound there, so end before it; or the tolerance is too small"
            )
            raise SolverError(f"the step size became too small at t = {time:.6g}: {cause}")
        # No remainder is left that is too small for a step.
        last = step > end - time - problem.smallest_step
        if last:
            step = end - time
        # What is too large for float64 is rejected.
        with np.errstate(over="ignore", invalid="ignore"):
            slopes = tableau.slopes(problem, time, state, step)
            following = state + step * combine(tableau.weights, slopes)
            error = step * float(abs(combine(difference, slopes)).max())
        if not (math.isfinite(error) and np.isfinite(following).all()):
            error = math.inf
        accepted = error <= tolerance
        attempts.append(Attempt(time, step, error, accepted))
        if accepted:
            times.append(end if last else time + step)
            states.append(following)
            step_sizes.append(step)
        step = next_step_size(step, error, tolerance, safety=safety, order=tableau.order)
    return Solution(
        np.array(times),
        np.stack(states),
        np.array(step_sizes),
        problem.evaluations,
        tuple(attempts),
    )
