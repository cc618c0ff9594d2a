"""The sections of the page about several runs, a file each."""

from timestepper.report.html.comparison.curves import curves
from timestepper.report.html.comparison.differences import differences
from timestepper.report.html.comparison.overview import overview
from timestepper.report.html.comparison.stability import stability
from timestepper.report.html.comparison.steps import step_sizes

__all__ = ["curves", "differences", "overview", "stability", "step_sizes"]
