"""Plots and tables of networks, their runs, and solutions."""

from timestepper.report.curves import plot_curves
from timestepper.report.gradients import plot_gradient_flow
from timestepper.report.solutions import plot_solutions
from timestepper.report.steps import plot_step_sizes, step_size_table
from timestepper.report.trajectory import plot_trajectory

__all__ = [
    "plot_curves",
    "plot_gradient_flow",
    "plot_solutions",
    "plot_step_sizes",
    "plot_trajectory",
    "step_size_table",
]
