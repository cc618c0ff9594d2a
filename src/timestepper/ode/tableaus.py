"""Explicit Runge-Kutta methods, each of them its Butcher tableau."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from timestepper.ode.problem import Array, Problem


@dataclass(frozen=True, slots=True)
class Tableau:
    """An explicit Runge-Kutta method.

    Stage i has the slope k_i = f(t + c_i Δt, y + Δt Σ_{l<i} a_il k_l); the step's result is
    y_{j+1} = y_j + Δt Σ_i b_i k_i.

    Attributes:
        nodes: c.
        stages: a, a row for each stage, with as many numbers as there are stages before it.
        weights: b, of y_{j+1}.
        order: p, the order of y_{j+1}.
        comparison: b̂, of the result ŷ_{j+1} of order p + 1 that y_{j+1} is compared with
            (paper Eq. 5); empty for a method that has none.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    weights: tuple[float, ...]
    order: int
    comparison: tuple[float, ...] = ()

    def slopes(self, problem: Problem, time: float, state: Array, step_size: float) -> Array:
        """Evaluate f at every stage.

        Args:
            problem: what is solved.
            time: t_j.
            state: y_j.
            step_size: Δt_j.

        Returns:
            k_i, ``(stages, *shape of y)``.

        Raises:
            SolverError: f returned something else than a slope.
        """
        slopes = np.empty((len(self.nodes), *state.shape))
        for stage, (node, row) in enumerate(zip(self.nodes, self.stages, strict=True)):
            inner = state + step_size * combine(row, slopes[:stage])
            slopes[stage] = problem.slope(time + node * step_size, inner)
        return slopes


def combine(weights: ArrayLike, slopes: Array) -> Array:
    """Sum slopes, each times its weight: ``(stages, *shape)`` to ``shape``."""
    return np.asarray(np.tensordot(np.asarray(weights, dtype=np.float64), slopes, axes=1))


EULER = Tableau(nodes=(0.0,), stages=((),), weights=(1.0,), order=1)
"""Forward Euler: y_{j+1} = y_j + Δt f(t_j, y_j), a residual block (paper Eq. 1)."""

FEHLBERG = Tableau(
    nodes=(0, 1 / 4, 3 / 8, 12 / 13, 1, 1 / 2),
    stages=(
        (),
        (1 / 4,),
        (3 / 32, 9 / 32),
        (1932 / 2197, -7200 / 2197, 7296 / 2197),
        (439 / 216, -8, 3680 / 513, -845 / 4104),
        (-8 / 27, 2, -3544 / 2565, 1859 / 4104, -11 / 40),
    ),
    weights=(25 / 216, 0, 1408 / 2565, 2197 / 4104, -1 / 5, 0),
    order=4,
    comparison=(16 / 135, 0, 6656 / 12825, 28561 / 56430, -9 / 50, 2 / 55),
)
"""Runge-Kutta-Fehlberg 4(5) (Fehlberg 1969; Hairer, Nørsett and Wanner 1993, table II.5.1)."""
