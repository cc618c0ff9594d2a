"""Bound and truth along depth, and the eigenvalues of Euler steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from rich.markup import escape
from rich.table import Table

from timestepper.report.names import literal, power_of_ten
from timestepper.report.pictures import save
from timestepper.report.styles import legend_columns
from timestepper.stability import Stability, StageStability
from timestepper.stability.amplification import LOCAL_TOLERANCE

PANELS_PER_ROW = 3


def step_table(stability: Stability) -> Table:
    """Tabulate the steps of a network, for a terminal."""
    table = Table(title="each Euler step: factor of Eq. 7, and what is true at the images")
    for heading in ("block", "Δt", "‖W‖₂", "1+‖ΔtW‖₂", "‖ΔtJ‖₂", "max|1+Δtλ|"):
        table.add_column(heading, justify="left" if heading == "block" else "right")
    for step, after in zip(stability.steps, (*stability.steps[1:], None), strict=True):
        radius = max(map(abs, step.eigenvalues), default=None)
        table.add_row(
            escape(step.name),
            f"{step.step_size:.3f}",
            *map(_number, (step.lipschitz, step.factor, step.jacobian_norm, radius)),
            end_section=after is None or after.stage != step.stage,
        )
    return table


def stage_table(stability: Stability) -> Table:
    """Tabulate the stages of a network and the whole of it, for a terminal."""
    table = Table(title="growth of a perturbation ‖y'−y‖/ε from the first state to the last")
    for heading in ("stage", "steps", "T", "random", "worst", "bound (Eq. 7)"):
        table.add_column(heading, justify="left" if heading == "stage" else "right")
    for stage in stability.stages:
        steps = sum(step.stage == stage.name for step in stability.steps)
        last = stage is stability.stages[-1]
        table.add_row(escape(stage.name), str(steps), *_growth(stage), end_section=last)
    table.add_row("all", str(len(stability.steps)), *_growth(stability))
    return table


def comparison_table(measured: Mapping[str, Stability]) -> Table:
    """Tabulate several networks side by side, for a terminal."""
    table = Table(title="growth of a perturbation from y_0 to y_D")
    for heading in ("network", "steps", "T", "random", "worst", "bound (Eq. 7)"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for name, stability in measured.items():
        table.add_row(escape(name), str(len(stability.steps)), *_growth(stability))
    return table


def _growth(measured: Stability | StageStability) -> tuple[str, ...]:
    bound = "none" if measured.bound is None else power_of_ten(measured.bound)
    return (
        f"{measured.evolution_time:.3f}",
        _number(measured.random),
        _number(measured.worst),
        bound,
    )


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def plot_growth(measured: Mapping[str, Stability], path: Path) -> None:
    """Plot the bound and what perturbations of y_0 really grow to, along depth.

    Args:
        measured: by the networks' names.
        path: the picture, of the format that its suffix names.
    """
    depth = max(len(stability.steps) for stability in measured.values())
    figure = Figure(figsize=(max(8.0, min(14.0, 0.14 * depth)), 5.0), layout="constrained")
    axes = figure.subplots()
    for number, (name, stability) in enumerate(measured.items()):
        colour = f"C{number}"
        states = range(1, len(stability.steps) + 1)
        bounds = [math.nan if step.bound is None else step.bound for step in stability.steps]
        axes.plot(states, bounds, "--", color=colour)
        for kind, style in (("worst", "-"), ("random", ":")):
            growth = [getattr(step, kind) or math.nan for step in stability.steps]
            axes.plot(states, np.log10(growth), style, color=colour)
        axes.plot([], [], color=colour, linewidth=4, label=literal(name))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("n: steps taken")
    axes.set_ylabel("log₁₀ ‖y'ₙ − yₙ‖ / ‖y'₀ − y₀‖")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(alpha=0.3)
    lines = [
        Line2D([], [], linestyle="--", color="0.2", label="bound of Proposition 1"),
        Line2D([], [], linestyle="-", color="0.2", label="direction that grows most"),
        Line2D([], [], linestyle=":", color="0.2", label="random directions"),
    ]
    names = axes.get_legend_handles_labels()[0]
    labels = [str(entry.get_label()) for entry in (*names, *lines)]
    fitting = legend_columns(labels, figure.get_figwidth())
    figure.legend(
        handles=[*names, *lines],
        loc="outside upper center",
        ncols=1 if len(names) > 3 else min(2, fitting),
        frameon=False,
    )
    save(figure, path)


def plot_eigenvalues(measured: Mapping[str, Stability], path: Path) -> None:
    """Plot the largest eigenvalues of I + Δt·J of each step with the unit circle (Eq. 4).

    Args:
        measured: by the networks' names; at least one of them has eigenvalues.
        path: the picture, of the format that its suffix names.
    """
    every = [v for stability in measured.values() for s in stability.steps for v in s.eigenvalues]
    reach = 1.08 * max(1.0, max(map(abs, every)))
    columns = min(PANELS_PER_ROW, len(measured))
    rows = -(-len(measured) // columns)
    figure = Figure(figsize=(4.6 * columns + 1.2, 5.2 * rows), layout="compressed")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    colours = matplotlib.colormaps["viridis"]
    angles = np.linspace(0, 2 * np.pi, 400)
    for axes, (name, stability) in zip(panels, measured.items(), strict=False):
        axes.plot(np.cos(angles), np.sin(angles), color="black", linewidth=1)
        last = max(1, len(stability.steps) - 1)
        unstable, plain = 0, 0
        for number, step in enumerate(stability.steps):
            values = np.array(step.eigenvalues)
            axes.scatter(
                values.real, values.imag, s=14, color=colours(number / last), edgecolors="none"
            )
            plain += bool(step.eigenvalues)
            # Where J is singular 1 is an eigenvalue, which may come out as a little more.
            unstable += max(map(abs, step.eigenvalues), default=0.0) > 1 + LOCAL_TOLERANCE
        axes.set_title(
            f"{literal(name)}\noutside the circle: {unstable} of {plain} steps", fontsize="medium"
        )
        axes.set_aspect("equal")
        axes.set_xlim(-reach, reach)
        axes.set_ylim(-reach, reach)
        axes.grid(alpha=0.3)
        axes.set_xlabel("real part of 1 + Δtλ")
    for axes in panels[len(measured) :]:
        axes.set_axis_off()
    panels[0].set_ylabel("imaginary part")
    bar = figure.colorbar(
        ScalarMappable(Normalize(0, 1), colours), ax=list(panels), shrink=0.8, ticks=[0, 1]
    )
    bar.ax.set_yticklabels(["first step", "last step"])
    save(figure, path)
