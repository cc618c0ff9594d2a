"""Step sizes of every block and channel as heat maps, with a slider over epochs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from plotly import graph_objects as go
from plotly.subplots import make_subplots

from timestepper.report.html.figures import SCALE, literal
from timestepper.report.names import shared_prefix
from timestepper.training.step_history import StepHistory

BYTES = 2_000_000
"""What the values of one slider may take, as text in the page."""
BYTES_A_VALUE = 6
MOST_EPOCHS = 60
"""Stops that can still be told apart on a slider as wide as a phone."""
ROW = 16
"""Height of a block, in pixels; of many blocks less."""
HIGHEST = 420
"""Height of a panel."""
LOWEST = 130
"""Height of all panels, for a colour bar that can be read."""


@dataclass(frozen=True)
class Panel:
    """Blocks that follow each other and have as many channels.

    Attributes:
        title: what their names have in common, and the number of channels.
        blocks: their names.
        prefix: what these begin with, all of them, up to a dot.
    """

    title: str
    blocks: tuple[str, ...]
    prefix: str


def panels(steps: StepHistory) -> list[Panel]:
    """Cut the blocks, in order of depth, where the number of channels changes."""
    found = []
    for channels, names in groupby(steps, lambda name: steps[name].shape[1]):
        blocks = tuple(names)
        prefix = shared_prefix(blocks)
        common = blocks[0] if len(blocks) == 1 else prefix.rstrip(".")
        title = f"{common or f'{blocks[0]} to {blocks[-1]}'}: {channels} channels"
        found.append(Panel(title, blocks, prefix))
    return found


def shown_epochs(steps: StepHistory) -> list[int]:
    """Choose the epochs at which the slider stops: all, or evenly spaced ones and both ends."""
    recorded = len(next(iter(steps.values())))
    values = sum(rows.shape[1] for rows in steps.values())
    most = max(2, min(MOST_EPOCHS, BYTES // (BYTES_A_VALUE * values)))
    places = np.linspace(0, recorded - 1, min(recorded, most)).round().astype(int)
    return list(dict.fromkeys(places.tolist()))


def extremes(steps: StepHistory, epochs: Sequence[int]) -> tuple[float, float]:
    """Return the smallest and the largest step size of some epochs."""
    chosen = torch.cat([rows[list(epochs)].flatten() for rows in steps.values()])
    return chosen.min().item(), chosen.max().item()


def heat_map(
    steps: StepHistory, epochs: Sequence[int], scale: tuple[float, float]
) -> tuple[go.Figure, int]:
    """Draw a panel for each width, a row for each block, a column for each channel.

    Channels are in order of their mean at the last of the epochs, so that what blocks share is seen
    as a slope; what the mouse points at has its own number.

    Args:
        steps: a run's step sizes, of at least one block.
        epochs: at which there is a stop of the slider; of one alone there is no slider.
        scale: smallest and largest step size that colours tell apart.

    Returns:
        The figure, which shows the last one, and its height in pixels.
    """
    cut = panels(steps)
    rows = [_row_height(panel) * len(panel.blocks) for panel in cut]
    gap, below = 62, 96 if len(epochs) > 1 else 40
    inner = max(LOWEST, sum(rows) + gap * (len(rows) - 1))
    figure = make_subplots(
        rows=len(cut),
        cols=1,
        row_heights=rows,
        vertical_spacing=gap / inner if len(cut) > 1 else 0,
        subplot_titles=[panel.title for panel in cut],
    )
    tables = [np.stack([steps[name].numpy() for name in panel.blocks], 1) for panel in cut]
    orders = [table[epochs[-1]].mean(0).argsort() for table in tables]
    for number, (panel, table, order) in enumerate(zip(cut, tables, orders, strict=True)):
        figure.add_trace(
            go.Heatmap(
                z=_shown(table[epochs[-1]], order),
                x=[str(channel) for channel in order],
                y=[name.removeprefix(panel.prefix) for name in panel.blocks],
                coloraxis="coloraxis",
                hovertemplate=f"{literal(panel.prefix)}%{{y}}, channel %{{x}}: "
                "Δt = %{z:.4f}<extra></extra>",
            ),
            row=number + 1,
            col=1,
        )
    figure.update_xaxes(type="category", showticklabels=False, ticks="", showgrid=False)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, automargin=True)
    figure.update_xaxes(title={"text": "channel, in order of Δt"}, row=len(cut), col=1)
    figure.update_layout(
        coloraxis={
            "colorscale": SCALE,
            "cmin": scale[0],
            # Where all are equal there is still a scale.
            "cmax": max(scale[1], scale[0] + 1e-3),
            "colorbar": {"title": {"text": "Δt"}, "thickness": 12, "len": 1, "ypad": 0},
        },
        margin={"t": 28, "b": below},
    )
    if len(epochs) > 1:
        figure.frames = [
            go.Frame(
                name=str(epoch),
                data=[
                    go.Heatmap(z=_shown(t[epoch], o)) for t, o in zip(tables, orders, strict=True)
                ],
                traces=list(range(len(cut))),
            )
            for epoch in epochs
        ]
        figure.update_layout(sliders=[_slider(epochs)])
    return figure, round(inner) + 28 + below


def _row_height(panel: Panel) -> float:
    return min(ROW, HIGHEST / len(panel.blocks))


def _shown(rows: NDArray[np.float32], order: NDArray[np.int64]) -> list[list[float]]:
    """Put channels in order; four decimals are what the page shows."""
    return [[round(value, 4) for value in row] for row in rows[:, order].tolist()]


def _slider(epochs: Sequence[int]) -> dict[str, Any]:
    how = {"mode": "immediate", "frame": {"duration": 0, "redraw": True}, "transition": {}}
    return {
        "active": len(epochs) - 1,
        "currentvalue": {"prefix": "after epoch "},
        "pad": {"t": 34},
        "steps": [
            {
                "label": "start" if epoch == 0 else str(epoch),
                "method": "animate",
                "args": [[str(epoch)], how],
            }
            for epoch in epochs
        ],
    }
