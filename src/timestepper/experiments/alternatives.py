"""Beyond the paper: time stepping beside what people would use instead."""

from __future__ import annotations

from collections.abc import Sequence

from timestepper.experiments.method_comparison import compare
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale
from timestepper.report.result_figure import ResultFigure

NOTES = (
    "A network whose last γ starts at 0.5 computes at its start what a time-stepped one does. "
    "What time stepping does beyond it is all that its control is worth.",
)


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Compare the methods."""
    return compare(
        "Time stepping beside its alternatives", scale, planned, outcomes, more_notes=NOTES
    )
