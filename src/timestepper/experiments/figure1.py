"""Figure 1: one initial value problem with small, large and adaptive steps."""

from __future__ import annotations

import numpy as np

from timestepper.ode import Array, Solution, solve_adaptive, solve_fixed
from timestepper.report import plot_solutions
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable

RATE = -4.0
"""λ of dy/dt = λy."""

# Chosen by us: the paper does not say.
END = 3.0
SMALL, LARGE = 0.01, 0.6
TOLERANCE, FIRST_STEP = 1e-3, 0.1

LIMITS = (-1.7, 2.2)
"""Of the plot; the unstable solution leaves them."""

COLUMNS = (
    Column("method", "method", text=True),
    Column("smallest_step", "smallest\nΔt"),
    Column("largest_step", "largest\nΔt"),
    Column("steps", "steps"),
    Column("evaluations", "evaluations\nof f"),
    Column("largest_error", "largest\nerror", decimals=6),
)

NOTES = (
    "dy/dt = -4y, y(0) = 1, whose solution is exp(-4t). The paper prints neither interval nor step "
    f"sizes nor numbers for its Figure 1; chosen here: t from 0 to {END:g}; h = {SMALL:g} and "
    f"h = {LARGE:g} for Euler, of which the second is not stable, as |1 - 4h| = "
    f"{abs(1 + RATE * LARGE):.1f} (Eq. 3); for Runge-Kutta-Fehlberg 4(5) Tol = {TOLERANCE:g}, "
    f"k = 0.9 and a first step of {FIRST_STEP:g} (Eq. 6).",
    "Largest error: of |y - exp(-4t)| over the solution's own times.",
    "A step of Runge-Kutta-Fehlberg evaluates f six times, one of Euler once. Its last step is "
    "cut so as to end with the interval.",
)


def calculate() -> ResultFigure:
    """Solve the problem in three ways."""
    problem = (lambda _, y: RATE * y, 1.0, 0.0, END)
    solutions = {
        f"Euler, h = {SMALL:g}": solve_fixed(*problem, step_size=SMALL),
        f"Euler, h = {LARGE:g}": solve_fixed(*problem, step_size=LARGE),
        "RKF": solve_adaptive(*problem, tolerance=TOLERANCE, first_step=FIRST_STEP),
    }
    rows: list[tuple[Cell, ...]] = []
    labelled: dict[str, Solution] = {}
    for method, solution in solutions.items():
        steps = solution.step_sizes
        error = float(abs(solution.states - _exact(solution.times)).max())
        sizes = (float(steps.min()), float(steps.max()))
        rows.append((method, *sizes, len(steps), solution.evaluations, error))
        labelled[f"{method}: {len(steps)} steps, largest error {error:.2g}"] = solution
    figure = plot_solutions(_exact, labelled, exact_label="exact: exp(-4t)", limits=LIMITS)
    title = "Figure 1: Euler's method and Runge-Kutta-Fehlberg (RKF)"
    return ResultFigure(figure, ResultTable(title, COLUMNS, rows, NOTES))


def _exact(times: Array) -> Array:
    return np.exp(RATE * times)
