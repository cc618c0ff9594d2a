"""Figure 3: training curves, plain and time-stepped."""

from __future__ import annotations

from collections.abc import Sequence

from timestepper.experiments.method_comparison import STATISTICS, group, half_width, notes
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
    Column("epoch", "epoch"),
    Column("train_error_percent", "train\nerror (%)", decimals=2),
    Column("train_error_interval", "±", decimals=2, plus_minus=True),
    Column("test_error_percent", "test\nerror (%)", decimals=2),
    Column("test_error_interval", "±", decimals=2, plus_minus=True),
    Column("seeds", "n"),
)

NOTES = (
    "The paper's figure is of ResNet-50 on ImageNet and has no numbers; its text says that the "
    "time-stepped network is better during the whole training.",
    "Training errors are means over an epoch, of augmented images and changing weights.",
)


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Draw errors epoch by epoch."""
    labels = read_methods()
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for each in group(scale, planned, outcomes):
        curves: dict[str, dict[str, dict[float, Interval]]] = {"test": {}, "training": {}}
        for method, of_method in each.outcomes.items():
            label = labels[method].label
            epochs = zip(*(outcome.history for outcome in of_method), strict=True)
            for number, epoch in enumerate(epochs, 1):
                cells: list[Cell] = []
                for split, key in (("training", "train_accuracy"), ("test", "test_accuracy")):
                    found = estimate([100 * (1 - row[key]) for row in epoch])
                    cells += [found.mean, half_width(found)]
                    at = curves[split].setdefault(label, {})
                    at[number] = (found.mean, found.low, found.high)
                rows.append((each.title, label, number, *cells, len(of_method)))
        for split, drawn in curves.items():
            panels.append(Panel(each.title, "epoch", f"{split} error (%)", drawn, bounds=(0, 100)))
    table = ResultTable(
        "Figure 3: training curves",
        COLUMNS,
        rows,
        (*notes(scale, planned, outcomes), STATISTICS, *NOTES),
    )
    return ResultFigure(plot_bands(panels), table)
