"""Figure 4: accuracy and loss under Gaussian noise on the inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial

from timestepper.errors import ConfigurationError
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
from timestepper.experiments.study import Scale, read_methods
from timestepper.report import Panel, plot_bands
from timestepper.report.bands import Interval
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.statistics import estimate

COLUMNS = (
    Column("network", "network", text=True),
    Column("method", "method", text=True),
    Column("deviation", "noise", decimals=2),
    Column("seeds", "n"),
    Column("accuracy_percent", "accuracy\n(%)", decimals=2),
    Column("accuracy_interval", "±", decimals=2, plus_minus=True),
    Column("accuracy_difference", "accuracy\n− plain", signed=True, decimals=2),
    Column("accuracy_difference_interval", "±", decimals=2, plus_minus=True),
    Column("accuracy_p", "p", is_p=True),
    Column("loss", "loss"),
    Column("loss_interval", "±", plus_minus=True),
    Column("growth_difference", "growth\n− plain", signed=True),
    Column("growth_difference_interval", "±", plus_minus=True),
    Column("growth_p", "p", is_p=True),
)

NOTES = (
    "Noise: standard deviation of Gaussian noise, in those of the training images' pixels, added "
    "to the normalised images without clipping. The paper does not say its unit.",
    "The paper's figure has no numbers. Its text says that TSC has the best accuracy of Δt = 1, "
    "Δt = 0.01 and TSC at every level, and that its loss grows less than that of Δt = 1.",
)


def check(scale: Scale) -> None:
    """Refuse what can't be presented.

    Raises:
        ConfigurationError: the scale measures nothing under noise.
    """
    if scale.noise is None:
        raise ConfigurationError("figure4 has no noise to measure; give its recipe some")


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Draw accuracy and loss against the standard deviation of the noise."""
    assert scale.noise is not None
    labels = read_methods()
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for each in group(scale, planned, outcomes):
        drawn: dict[str, dict[str, dict[float, Interval]]] = {"accuracy": {}, "loss": {}}
        for method, of_method in each.outcomes.items():
            label = labels[method].label + (" (Δt = 1)" if method == BASELINE else "")
            for column, deviation in enumerate(scale.noise.deviations if of_method else ()):
                accuracy = estimate([o.accuracy_under_noise(column) for o in of_method])
                loss = estimate([o.loss_under_noise(column) for o in of_method])
                for quantity, found in (("accuracy", accuracy), ("loss", loss)):
                    at = drawn[quantity].setdefault(label, {})
                    at[deviation] = (found.mean, found.low, found.high)
                gain = each.difference(method, partial(Outcome.accuracy_under_noise, column=column))
                growth = each.difference(method, partial(Outcome.growth_under_noise, column=column))
                rows.append(
                    (
                        *(each.title, label, deviation, len(of_method)),
                        *(accuracy.mean, half_width(accuracy), *difference_cells(gain)),
                        *(loss.mean, half_width(loss), *difference_cells(growth)),
                    )
                )
        for quantity, unit, most in (
            ("accuracy", "accuracy (%)", 100.0),
            ("loss", "cross-entropy (nats)", math.inf),
        ):
            x_label = "standard deviation of the noise"
            panel = Panel(each.title, x_label, unit, drawn[quantity], bounds=(0, most))
            panels.append(panel)
    settings = (
        f"Means over {scale.noise.draws} draws of the noise, the same ones for all networks. "
        f"Growth: of the loss, from noise {scale.noise.deviations[0]:g} on."
    )
    table = ResultTable(
        "Figure 4: Gaussian noise on the inputs",
        COLUMNS,
        rows,
        (*notes(scale, planned, outcomes), settings, STATISTICS, *NOTES),
    )
    return ResultFigure(plot_bands(panels), table)
