"""Plots and tables of networks, their runs, and solutions."""

from timestepper.report.bands import Panel, plot_bands, plot_intervals
from timestepper.report.curves import plot_curves
from timestepper.report.explanations import explanation_table, plot_explanations
from timestepper.report.gradients import plot_gradient_flow
from timestepper.report.robustness import every_score, plot_robustness, robustness_table
from timestepper.report.solutions import plot_solutions
from timestepper.report.stability import (
    comparison_table,
    plot_eigenvalues,
    plot_growth,
    stage_table,
    step_table,
)
from timestepper.report.steps import plot_step_sizes, step_size_table
from timestepper.report.trajectory import plot_trajectory

__all__ = [
    "Panel",
    "comparison_table",
    "every_score",
    "explanation_table",
    "plot_bands",
    "plot_curves",
    "plot_eigenvalues",
    "plot_explanations",
    "plot_gradient_flow",
    "plot_growth",
    "plot_intervals",
    "plot_robustness",
    "plot_solutions",
    "plot_step_sizes",
    "plot_trajectory",
    "robustness_table",
    "stage_table",
    "step_size_table",
    "step_table",
]
