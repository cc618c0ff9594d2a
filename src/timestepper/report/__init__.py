"""Plots and tables of a run."""

from timestepper.report.curves import plot_curves
from timestepper.report.steps import plot_step_sizes, step_size_table

__all__ = ["plot_curves", "plot_step_sizes", "step_size_table"]
