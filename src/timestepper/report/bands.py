"""Curves with intervals, and intervals by themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from timestepper.report.names import literal
from timestepper.report.styles import dash, legend_columns

Interval = tuple[float, float, float]
"""A mean and the ends of its interval, which are NaN where there is none."""


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: what stands above it.
        x_label: what it is drawn against, with its unit.
        y_label: what is drawn, with its unit.
        curves: for each label, the interval at every x, in increasing order of x.
        ticks: the only numbers below a logarithmic axis; without them the axis is linear.
        bounds: values of y beyond which there is nothing, though intervals may pass them.
    """

    title: str
    x_label: str
    y_label: str
    curves: Mapping[str, Mapping[float, Interval]]
    ticks: Sequence[float] = ()
    bounds: tuple[float, float] = (-math.inf, math.inf)


def plot_bands(panels: Sequence[Panel]) -> Figure:
    """Draw curves of means with their intervals as bands, panels side by side."""
    figure = Figure(figsize=(max(5.5, 4.8 * len(panels)), 4.2), layout="constrained")
    labels = list(dict.fromkeys(label for panel in panels for label in panel.curves))
    colours = {label: f"C{number}" for number, label in enumerate(labels)}
    dashes = {label: dash(number) for number, label in enumerate(labels)}
    handles = {}
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for label, points in panel.curves.items():
            handles[label] = _draw(axes, literal(label), points, colours[label], dashes[label])
        axes.set_title(literal(panel.title), fontsize="medium")
        axes.set_xlabel(panel.x_label)
        axes.set_ylabel(panel.y_label)
        if panel.ticks:
            axes.set_xscale("log")
            axes.set_xticks(panel.ticks, [f"{tick:g}" for tick in panel.ticks])
            axes.set_xticks([], minor=True)
        elif all(float(x).is_integer() for points in panel.curves.values() for x in points):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        low, high = axes.get_ylim()
        margin = 0.02 * (high - low)
        axes.set_ylim(max(low, panel.bounds[0] - margin), min(high, panel.bounds[1] + margin))
        axes.grid(alpha=0.3)
    figure.legend(
        handles=list(handles.values()),
        loc="outside lower center",
        ncols=legend_columns(handles, figure.get_figwidth()),
        frameon=False,
    )
    return figure


def _draw(
    axes: Axes, label: str, points: Mapping[float, Interval], colour: str, dash: str
) -> Line2D:
    means, lows, highs = zip(*points.values(), strict=True)
    xs = list(points)
    axes.fill_between(xs, lows, highs, color=colour, alpha=0.18, linewidth=0)
    (line,) = axes.plot(xs, means, marker=".", linestyle=dash, color=colour, label=label)
    return line


def plot_intervals(groups: Mapping[str, Mapping[str, Interval]], x_label: str) -> Figure:
    """Draw means with their intervals, a line each, and a line at zero.

    Args:
        groups: for each group, by label, what is drawn.
        x_label: what is drawn, with its unit.
    """
    rows = sum(map(len, groups.values()))
    figure = Figure(figsize=(7.5, 1.1 + 0.32 * rows + 0.35 * len(groups)), layout="constrained")
    heights = [max(1, len(group)) for group in groups.values()]
    panels = figure.subplots(len(groups), 1, squeeze=False, sharex=True, height_ratios=heights)
    for axes, (title, intervals) in zip(panels[:, 0], groups.items(), strict=True):
        for row, (mean, low, high) in enumerate(intervals.values()):
            axes.plot(mean, row, "o", color="C0")
            if not math.isnan(low):
                axes.plot([low, high], [row, row], color="C0")
        axes.axvline(0, color="0.4", linewidth=0.8)
        axes.set_yticks(range(len(intervals)), [literal(label) for label in intervals])
        axes.set_ylim(max(1, len(intervals)) - 0.5, -0.5)
        axes.set_title(literal(title), fontsize="medium", loc="left")
        axes.grid(alpha=0.3, axis="x")
    panels[-1, 0].set_xlabel(x_label)
    return figure
