"""The sections of the page about one run, a file each."""

from timestepper.report.html.sections.again import again
from timestepper.report.html.sections.cost import cost
from timestepper.report.html.sections.curves import curves
from timestepper.report.html.sections.evolution import evolution
from timestepper.report.html.sections.explanation import explanation
from timestepper.report.html.sections.predictions import predictions
from timestepper.report.html.sections.stability import stability
from timestepper.report.html.sections.steps import step_sizes
from timestepper.report.html.sections.summary import summary

__all__ = [
    "again",
    "cost",
    "curves",
    "evolution",
    "explanation",
    "predictions",
    "stability",
    "step_sizes",
    "summary",
]
