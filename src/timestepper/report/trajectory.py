"""The ways that inputs take through networks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.decomposition import PCA
from torch import Tensor

from timestepper.errors import StabilityError
from timestepper.report.names import literal
from timestepper.report.pictures import save
from timestepper.stability.depth import SizeStage
from timestepper.stability.trajectories import Trajectory

COLOURED_CLASSES = 10
"""More colours than these can't be told apart."""
OTHERS = "0.75"


def plot_trajectory(
    trajectories: Mapping[str, Trajectory],
    labels: Tensor,
    path: Path,
    classes: Sequence[str] | None = None,
) -> None:
    """Plot the ways of images through networks, stage by stage.

    A row for each network, a panel for each of its stages with states of one size. A state's
    channels are averaged over positions, so that stages of any resolution are seen as a classifier
    sees the last; the two principal components are those of all states of the panel.

    Args:
        trajectories: by the networks' names, all of the same images.
        labels: the images' classes, int64 ``(n,)``.
        path: the picture, of the format that its suffix names.
        classes: the classes' names, by label.

    Raises:
        StabilityError: the states of a network change their size with each step.
    """
    rows = {name: _drawn_stages(name, one) for name, one in trajectories.items()}
    colours = _colours(labels)
    columns = max(len(stages) for stages in rows.values())
    figure = Figure(figsize=(3.3 * columns + 1.6, 3.9 * len(rows)), layout="constrained")
    parts = figure.subfigures(len(rows), 1, squeeze=False)[:, 0]
    for part, (name, stages) in zip(parts, rows.items(), strict=True):
        part.suptitle(literal(name), fontweight="bold")
        row = part.subplots(1, columns, squeeze=False)[0]
        for axes, stage in zip(row, stages, strict=False):
            _draw(axes, trajectories[name], stage, [colours[int(label)] for label in labels])
        for axes in row[len(stages) :]:
            axes.set_axis_off()
    figure.legend(handles=_legend(colours, classes), loc="outside right upper", frameon=False)
    save(figure, path)


def _drawn_stages(name: str, trajectory: Trajectory) -> list[SizeStage]:
    """List the stages with two states at least, so that there is a way between, and channels."""
    stages = [
        stage
        for stage in trajectory.depth.size_stages()
        if stage.last > stage.first and trajectory.depth.sizes[stage.first][0] > 1
    ]
    if not stages:
        raise StabilityError(
            f"the states of {name} change their size with each step or have one channel: there is "
            "no way to draw in two dimensions"
        )
    return stages


def _colours(labels: Tensor) -> dict[int, str]:
    """Give the classes with most images colours, in order of their labels, the others grey."""
    counted = [label for label, _ in Counter(labels.tolist()).most_common()]
    palette = [matplotlib.colors.to_hex(c) for c in matplotlib.colormaps["tab10"].colors]  # type: ignore[attr-defined]
    coloured = dict(zip(sorted(counted[:COLOURED_CLASSES]), palette, strict=False))
    return coloured | dict.fromkeys(counted[COLOURED_CLASSES:], OTHERS)


def _draw(axes: Axes, trajectory: Trajectory, stage: SizeStage, colours: Sequence[str]) -> None:
    """Draw one panel: a line for each image, a dot for each state, the last one framed."""
    states = torch.stack(trajectory.features[stage.first : stage.last + 1]).double().cpu()
    count, images, channels = states.shape
    components = PCA(n_components=2, svd_solver="full")
    points = components.fit_transform(states.reshape(-1, channels).numpy())
    ways = points.reshape(count, images, 2)
    for image, colour in enumerate(colours):
        grey = colour == OTHERS
        x, y = ways[:, image].T
        axes.plot(x, y, ".-", color=colour, linewidth=0.8, markersize=3, alpha=0.5, zorder=2 - grey)
        axes.scatter(x[:1], y[:1], 12, "white", edgecolors=colour, linewidths=0.8, zorder=3)
    x, y = ways[-1].T
    axes.scatter(x, y, 22, colours, edgecolors="black", linewidths=0.5, zorder=4)
    first, second = 100 * components.explained_variance_ratio_
    times = trajectory.depth.times
    axes.set_title(
        f"{stage.name}\ny$_{{{stage.first}}}$ to y$_{{{stage.last}}}$, "
        f"t = {times[stage.first]:.3g} to {times[stage.last]:.3g}",
        fontsize="medium",
    )
    axes.set_xlabel(f"PC 1 ({first:.0f} % of variance)")
    axes.set_ylabel(f"PC 2 ({second:.0f} %)")
    axes.set_aspect("equal", adjustable="datalim")
    axes.locator_params(nbins=5)
    axes.grid(alpha=0.3)


def _legend(colours: Mapping[int, str], classes: Sequence[str] | None) -> list[Line2D]:
    """Make the legend's entries: classes, then what the dots mean."""
    names = {
        label: literal(classes[label]) if classes else str(label)
        for label in sorted(colours)
        if colours[label] != OTHERS
    }
    entries = [Line2D([], [], color=colours[label], label=name) for label, name in names.items()]
    others = len(colours) - len(names)
    if others:
        entries.append(Line2D([], [], color=OTHERS, label=f"{others} other classes"))
    for name, marker, filled in (
        ("first state", "o", "white"),
        ("after a step", ".", "black"),
        ("last state", "o", "0.6"),
    ):
        entries.append(
            Line2D(
                [],
                [],
                color="black",
                linestyle="",
                marker=marker,
                markersize=5,
                markerfacecolor=filled,
                label=name,
            )
        )
    return entries
