"""Curves of several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence

from plotly import graph_objects as go

from timestepper.report.html.figures import figure, line, literal, whole
from timestepper.report.html.groups import Method
from timestepper.report.html.parts import Plot, Plots, Section, Text

KINDS = (
    ("{split}_accuracy", "accuracy (%)", 100),
    ("{split}_loss", "cross-entropy", 1),
    ("train_accuracy", "training accuracy (%)", 100),
    ("train_loss", "training cross-entropy", 1),
)


def curves(methods: Sequence[Method]) -> Section:
    """Draw a line for each run; those of a method share colour and place in the legend."""
    splits = {run.split for method in methods for run in method.runs}
    longest = max(run.epochs for method in methods for run in method.runs)
    plots = []
    for column, title, scale in KINDS:
        lines = [
            series
            for number, method in enumerate(methods)
            for series in _lines(method, number, column, scale)
        ]
        drawn = figure(lines, "epoch", log="loss" in column, **whole(longest))
        drawn.update_layout(showlegend=True)
        of = " or ".join(sorted(splits)) + " " if "{" in column else ""
        plots.append(Plot(drawn, 320, of + title))
    text = (
        "A line for each run; those of one method differ in their seed alone. A click on the "
        "legend hides a method, a double click shows it alone."
    )
    return Section("curves", "Training", [Text(text), Plots(plots)])


def _lines(method: Method, number: int, column: str, scale: float) -> list[go.Scatter]:
    lines = []
    for place, run in enumerate(method.runs):
        values = [scale * value for value in run.curve(column.format(split=run.split))]
        epochs = [int(row["epoch"]) for row in run.history]
        series = line(epochs, values, method.label, number, opacity=0.85)
        series.update(
            legendgroup=method.label,
            showlegend=place == 0,
            hovertemplate=f"{literal(run.name)}: %{{y:.4g}}<extra></extra>",
        )
        lines.append(series)
    return lines
