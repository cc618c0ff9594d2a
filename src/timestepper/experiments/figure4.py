"""Figure 4: accuracy and loss under Gaussian noise on the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from timestepper.experiments.method_comparison import (
    BASELINE,
    STATISTICS,
    difference_cells,
    group,
    half_width,
    notes,
)
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.result_figure import ResultFigure
from timestepper.experiments.result_table import Cell, Column, ResultTable
from timestepper.experiments.statistics import estimate
from timestepper.experiments.study import Scale, read_methods
from timestepper.report import Panel, plot_bands
from timestepper.report.bands import Interval

COLUMNS = (
    Column("method", "method", text=True),
    Column("deviation", "noise", decimals=2),
    Column("seeds", "n"),
    Column("accuracy_percent", "accuracy\n(%)", decimals=2),
    Column("accuracy_interval", "±", decimals=2, plus_minus=True),
    Column("accuracy_difference", "accuracy\n− plain", signed=True, decimals=2),
    Column("accuracy_difference_interval", "±", decimals=2, plus_minus=True),
    Column("p", "p"),
    Column("loss", "loss"),
    Column("loss_interval", "±", plus_minus=True),
    Column("loss_growth", "loss −\nat 0"),
)

NOTES = (
    "Noise: standard deviation of Gaussian noise, in those of the training images' pixels, added "
    "to the normalised images without clipping. The paper does not say its unit.",
    "The paper's figure has no numbers. Its text says that TSC has the best accuracy of Δt = 1, "
    "Δt = 0.01 and TSC at every level, and that its loss grows less than that of Δt = 1.",
)


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Draw accuracy and loss against the standard deviation of the noise."""
    assert scale.noise is not None
    labels = read_methods()
    methods = list(dict.fromkeys(each.method for each in planned))
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for each in group(scale, outcomes, methods):
        drawn: dict[str, dict[str, dict[float, Interval]]] = {"accuracy": {}, "loss": {}}
        for method, of_method in each.outcomes.items():
            label = labels[method].label + (" (Δt = 1)" if method == BASELINE else "")
            without_noise = math.nan
            for column, deviation in enumerate(scale.noise.deviations if of_method else ()):
                accuracy = estimate([_accuracy(o, column) for o in of_method])
                loss = estimate([_at(o, "loss", column) for o in of_method])
                for quantity, found in (("accuracy", accuracy), ("loss", loss)):
                    at = drawn[quantity].setdefault(label, {})
                    at[deviation] = (found.mean, found.low, found.high)
                if deviation == 0:
                    without_noise = loss.mean
                gain = difference_cells(each.difference(method, partial(_accuracy, column=column)))
                rows.append(
                    (
                        *(label, deviation, len(of_method)),
                        *(accuracy.mean, half_width(accuracy), *gain),
                        *(loss.mean, half_width(loss), loss.mean - without_noise),
                    )
                )
        for quantity, unit in (("accuracy", "accuracy (%)"), ("loss", "cross-entropy (nats)")):
            x_label = "standard deviation of the noise"
            panels.append(Panel(each.title, x_label, unit, drawn[quantity]))
    settings = f"Means over {scale.noise.draws} draws of the noise, the same ones for all networks."
    table = ResultTable(
        "Figure 4: Gaussian noise on the inputs",
        COLUMNS,
        rows,
        (*notes(scale, planned, outcomes), settings, STATISTICS, *NOTES),
    )
    return ResultFigure(plot_bands(panels), table)


def _accuracy(outcome: Outcome, column: int) -> float:
    return 100 * _at(outcome, "accuracy", column)


def _at(outcome: Outcome, quantity: str, column: int) -> float:
    """Average a network's draws at one deviation."""
    return float(np.mean([draw[column] for draw in outcome.noise[quantity]]))
