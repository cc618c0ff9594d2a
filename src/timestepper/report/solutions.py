"""Solutions of an initial value problem, and the steps that they took."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import cycle

import numpy as np
from matplotlib.figure import Figure

from timestepper.ode import Array, Solution

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
    upper.plot(curve, exact(curve), color="black", linewidth=6, alpha=0.2, label=exact_label)
    for (label, solution), symbol in zip(solutions.items(), cycle("s^oD"), strict=False):
        few = len(solution.step_sizes) <= MARKED_STEPS
        style = {"marker": symbol, "linewidth": 1.0} if few else {"linewidth": 2.0}
        (line,) = upper.plot(solution.times, solution.states, label=label, **style)
        lower.stairs(
            solution.step_sizes, solution.times, baseline=None, color=line.get_color(), linewidth=2
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
