"""Plots and tables of runs and solutions."""

from timestepper.report.curves import plot_curves
from timestepper.report.solutions import plot_solutions
from timestepper.report.steps import plot_step_sizes, step_size_table

__all__ = ["plot_curves", "plot_solutions", "plot_step_sizes", "step_size_table"]
