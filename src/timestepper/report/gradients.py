"""Gradients along depth."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timestepper.report.pictures import save
from timestepper.report.styles import CHARACTER
from timestepper.stability.gradients import GradientFlow

MARKED_STATES = 40
"""More dots than this run into each other."""
LEGEND_AND_LABELS = 2.8
"""Inches of the figure's width that are not the axes'."""


def plot_gradient_flow(flows: Mapping[str, GradientFlow], path: Path) -> None:
    """Plot ‖∂L/∂y_n‖ along depth, a line for each of some step sizes of one network.

    Args:
        flows: by what the legend calls them; all with the same steps.
        path: the picture, of the format that its suffix names.
    """
    depth = next(iter(flows.values())).depth
    states = range(len(depth.sizes))
    figure = Figure(figsize=(max(8.0, min(14.0, 0.12 * len(states))), 4.4), layout="constrained")
    axes = figure.subplots()
    marker = "o" if len(states) <= MARKED_STATES else None
    for name, flow in flows.items():
        label = f"{name} (T = {flow.depth.times[-1]:.3g})"
        axes.plot(states, flow.norms, marker=marker, markersize=4, label=label)
    axes.set_yscale("log")
    size_stages = depth.size_stages()
    for stage in size_stages[1:]:
        axes.axvline(stage.first - 0.5, color="grey", linewidth=0.8, linestyle="--")
    named = [stage for stage in size_stages if stage.name]
    above = axes.secondary_xaxis("top")
    inches = (figure.get_figwidth() - LEGEND_AND_LABELS) / len(states)
    slanted = any(
        CHARACTER * len(stage.name) > inches * (stage.last - stage.first + 1) for stage in named
    )
    above.set_xticks(
        [(stage.first + stage.last) / 2 for stage in named],
        [stage.name for stage in named],
        rotation=30 if slanted else 0,
        ha="left" if slanted else "center",
    )
    above.tick_params(length=0)
    axes.set_xlabel("n: steps taken")
    axes.set_ylabel("gradient norm ‖∂L/∂yₙ‖, mean over images")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    save(figure, path)
