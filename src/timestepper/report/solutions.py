"""Solutions of an initial value problem, and the steps that they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from matplotlib.figure import Figure

from timestepper.ode import Solution
from timestepper.ode.problem import Array

POINTS = 400
"""As many points make a smooth curve."""

MARKED_STEPS = 50
"""More markers than this can't be told apart."""


def plot_solutions(
    exact: Callable[[Array], Array],
    solutions: Mapping[str, Solution],
    *,
    exact_label: str,
    limits: tuple[float, float],
) -> Figure:
    """Plot solutions of one scalar problem above their step sizes.

    Args:
        exact: times to the exact solution.
        solutions: by the label of each; all of the same interval.
        exact_label: the exact solution's label.
        limits: of y; a solution that is not stable leaves them.

    Returns:
        The figure, to be saved in any format.
    """
    figure = Figure(figsize=(7.5, 6.2), layout="constrained")
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(2.2, 1))
    times = next(iter(solutions.values())).times
    curve = np.linspace(times[0], times[-1], POINTS)
    upper.plot(curve, exact(curve), color="black", linewidth=3, alpha=0.25, label=exact_label)
    for (label, solution), symbol in zip(solutions.items(), "s^od", strict=False):
        marker = symbol if len(solution.step_sizes) <= MARKED_STEPS else None
        (line,) = upper.plot(
            *(solution.times, solution.states), marker=marker, linewidth=1.2, label=label
        )
        lower.step(
            *(solution.times, [*solution.step_sizes, solution.step_sizes[-1]]),
            where="post",
            color=line.get_color(),
        )
    upper.set_ylim(limits)
    upper.set_ylabel("y")
    lower.set_yscale("log")
    lower.set_ylabel("step size Δt")
    lower.set_xlabel("t")
    for axes in (upper, lower):
        axes.grid(alpha=0.3)
        axes.margins(x=0.02)
    figure.legend(loc="outside upper center", frameon=False)
    return figure
