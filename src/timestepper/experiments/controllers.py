"""Beyond the paper: what a controller does that a smaller start of the branches does not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

from timestepper.errors import ConfigurationError
from timestepper.experiments.method_comparison import (
    STATISTICS,
    difference_cells,
    group,
    half_width,
    notes,
)
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale, read_methods
from timestepper.report import plot_intervals
from timestepper.report.bands import Interval
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.statistics import estimate

MARK = "half-gamma"

COLUMNS = (
    Column("network", "network", text=True),
    Column("method", "method", text=True),
    Column("seeds", "n"),
    Column("error_percent", "error\n(%)", decimals=2),
    Column("error_interval", "±", decimals=2, plus_minus=True),
    Column("error_difference", "error −\nγ 0.5", signed=True, decimals=2),
    Column("error_difference_interval", "±", decimals=2, plus_minus=True),
    Column("error_p", "p", is_p=True),
    Column("noise_difference", "noise −\nγ 0.5", signed=True, decimals=3),
    Column("noise_difference_interval", "±", decimals=3, plus_minus=True),
    Column("noise_p", "p", is_p=True),
    Column("log10_bound", "bound\n(log10)", decimals=1),
    Column("log10_bound_interval", "±", decimals=1, plus_minus=True),
)

NOTES = (
    "γ 0.5: the plain network whose last γ starts at 0.5. It computes at its start what a network "
    "with a fresh TSC_LSTM does, and nothing controls it: what that controller is worth is the "
    "difference from it. lstm+ starts with other steps, around one over the root of a stage's "
    "depth L: its difference is of both, start and control, and that of γ from 1/√L of the start "
    "alone.",
    "Bound: of Proposition 1 (Eq. 7) from the first state to the last, as log10.",
)


def check(scale: Scale) -> None:
    """Refuse what can't be presented.

    Raises:
        ConfigurationError: the scale measures nothing under noise, or no bounds.
    """
    if scale.noise is None or not scale.bound:
        raise ConfigurationError("controllers needs noise and bound; give its recipe both")


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Tabulate errors, losses under noise and bounds, and draw the errors' differences."""
    assert scale.noise is not None
    labels = read_methods()
    last = len(scale.noise.deviations) - 1
    growth = partial(Outcome.growth_under_noise, column=last)
    rows: list[tuple[Cell, ...]] = []
    drawn: dict[str, dict[str, Interval]] = {}
    for each in group(scale, planned, outcomes):
        differences = drawn.setdefault(each.title, {})
        for method, of_method in each.outcomes.items():
            compared = each.difference(method, baseline=MARK)
            if compared is not None:
                found = compared.estimate
                differences[labels[method].label] = (found.mean, found.low, found.high)
            rows.append(
                (
                    *(each.title, labels[method].label, len(of_method)),
                    *_mean(of_method, lambda outcome: outcome.error),
                    *difference_cells(compared),
                    *difference_cells(each.difference(method, growth, MARK)),
                    *_mean(of_method, lambda outcome: outcome.log10_bound),
                )
            )
    noise = (
        "Noise: how much the loss (nats) grows under Gaussian noise of standard deviation "
        f"{scale.noise.deviations[last]:g} on the normalised test images, means over "
        f"{scale.noise.draws} draws."
    )
    said = (*notes(scale, planned, outcomes), STATISTICS, *NOTES, noise)
    table = ResultTable("Controllers beside γ started at 0.5", COLUMNS, rows, said)
    x_label = "test error − that with γ from 0.5 (percentage points), 95 % interval"
    return ResultFigure(plot_intervals(drawn, x_label), table)


def _mean(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> tuple[float, float]:
    """Return a mean over seeds and half of its interval."""
    if not outcomes:
        return math.nan, math.nan
    found = estimate([value(outcome) for outcome in outcomes])
    return found.mean, half_width(found)
