"""Step sizes along depth, and channel by channel."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import torch
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from rich.markup import escape
from rich.table import Table
from torch import nn

from timestepper.report.names import literal, shared_prefix
from timestepper.report.pictures import save
from timestepper.report.styles import CHARACTER, legend_columns
from timestepper.stepping import evolution_time, step_sizes

LABELLED_BLOCKS = 30
"""More names than this can't be read along one axis."""
LEVEL_BLOCKS = 8
"""More names than this stand upright."""
UPPER, LOWER = 3.0, 3.4
"""Heights of both parts, in inches,"""
UPRIGHT = 0.8
"""with names that take this much of the first."""


def step_size_table(network: nn.Module) -> Table:
    """Tabulate the step sizes of an attached network, for a terminal.

    Returns:
        For each branch mean, standard deviation, smallest and largest step size over channels;
        for each stage the evolution time T.

    Raises:
        AttachedError: the network is not attached.
    """
    steps = step_sizes(network)
    times = evolution_time(network)
    stages = _stages(network)
    table = Table(title="step sizes Δt over channels")
    for heading in ("stage", "T", "block", "mean", "std", "min", "max"):
        table.add_column(heading, justify="left" if heading in ("stage", "block") else "right")
    for stage, members in stages.items():
        for name in members:
            row = steps[name].double()
            figures = (row.mean(), row.std(correction=0), row.min(), row.max())
            first = name == members[0]
            table.add_row(
                escape(stage) if first else "",
                f"{times[stage]:.3f}" if first else "",
                escape(name),
                *(f"{figure.item():.4f}" for figure in figures),
                end_section=name == members[-1],
            )
    return table


def _stages(network: nn.Module) -> dict[str, list[str]]:
    """List the names of the branches of each stage, in order of depth."""
    stages: dict[str, list[str]] = {}
    for branch in network.time_stepping.branches:  # type: ignore[union-attr]
        stages.setdefault(branch.stage, []).append(branch.name)
    return stages


def plot_step_sizes(network: nn.Module, path: Path) -> None:
    """Plot mean and spread of each block's step sizes, and all of them as heat maps by stage.

    Args:
        network: attached.
        path: the picture, of the format that its suffix names.

    Raises:
        AttachedError: the network is not attached.
    """
    steps_by_name = step_sizes(network)
    names = list(steps_by_name)
    by_stage = {
        stage: [names.index(name) for name in members]
        for stage, members in _stages(network).items()
    }
    steps = [row.double().cpu() for row in steps_by_name.values()]
    prefix = shared_prefix(names)
    labels = [literal(name.removeprefix(prefix)) for name in names]
    rotated = len(names) > LEVEL_BLOCKS
    upper_height = UPPER + rotated * max(0.0, CHARACTER * max(map(len, labels)) - UPRIGHT)
    width = max(7.0, min(16.0, 0.28 * len(names)))
    figure = Figure(figsize=(width, upper_height + LOWER), layout="constrained")
    heights = (upper_height, LOWER)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=heights)[:, 0]

    axes = upper.subplots()
    colours = matplotlib.colormaps["viridis"]
    for number, (stage, members) in enumerate(by_stage.items()):
        colour = colours(0.85 * number / max(1, len(by_stage) - 1))
        means = [steps[i].mean().item() for i in members]
        low, high = ([steps[i].quantile(q).item() for i in members] for q in (0.1, 0.9))
        label = f"{literal(stage)}: T = {sum(means):.2f}"
        if len(members) > 1:
            axes.fill_between(members, low, high, color=colour, alpha=0.2, linewidth=0)
        else:
            axes.vlines(members, low, high, color=colour, alpha=0.2, linewidth=8)
        axes.plot(members, means, "o-", color=colour, label=label)
    axes.set_ylabel("step size Δt")
    axes.set_title("mean over channels; band: 10th to 90th percentile; T: evolution time")
    axes.grid(alpha=0.3)
    axes.margins(x=0.02)
    every = -(-len(names) // LABELLED_BLOCKS)
    axes.set_xticks(range(0, len(names), every), labels[::every], rotation=90 if rotated else 0)
    columns = legend_columns(axes.get_legend_handles_labels()[1], width)
    upper.legend(loc="outside upper center", ncols=columns, frameon=False)

    lowest = min(row.min().item() for row in steps)
    highest = max(row.max().item() for row in steps)
    # Where all are equal there is still a scale, the same for all panels.
    scale = Normalize(lowest, max(highest, lowest + 1e-3))
    panels = lower.subplots(
        1, len(by_stage), squeeze=False, width_ratios=[len(m) + 1 for m in by_stage.values()]
    )[0]
    for panel, (stage, members) in zip(panels, by_stage.items(), strict=True):
        rows = torch.stack([steps[i] for i in members], 1)
        image = panel.imshow(
            rows[rows.mean(1).argsort()].numpy(),
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            norm=scale,
        )
        panel.set_title(literal(stage), fontsize="medium")
        panel.set_xlabel("block")
        panel.set_xticks(range(0, len(members), -(-len(members) // 9)))
    panels[0].set_ylabel("channel, sorted by its mean")
    lower.colorbar(image, ax=list(panels), label="Δt")
    save(figure, path)
