"""What step sizes depend on, through a training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator, PercentFormatter
from rich.markup import escape
from rich.table import Table

from timestepper.report.names import literal
from timestepper.report.pictures import save
from timestepper.stepping import Explanation

Course = Mapping[int, Mapping[str, Explanation]]
"""Explanations by epoch and stage, in increasing order; 0 is the start, the last one the end."""

TABLED_EPOCHS = 12
"""More rows for each stage than this are thinned out."""
SHARES = ("channel", "position", "weights")
DECADES = 3
"""Range of the sensitivities that colours tell apart."""
CAPTION = (
    "std: of Δt over blocks and channels; channel, position, weights: shares of its square; "
    "own, earlier: change of a block's Δt (root mean square, first order) when its own averaged "
    "weights, or those of all earlier blocks, change by as much as they are"
)


def explanation_table(course: Course) -> Table:
    """Tabulate what step sizes depend on, for a terminal.

    Args:
        course: at least a start and an end. Of many epochs in between some are shown, more of the
            early ones, in which most happens.
    """
    first, *between, last = course
    if len(between) > TABLED_EPOCHS:
        places = np.geomspace(1, len(between), TABLED_EPOCHS).round().astype(int)
        between = [between[place - 1] for place in dict.fromkeys(places.tolist())]
    labels = {first: "start", **{epoch: str(epoch) for epoch in between}, last: "end"}
    table = Table(title="what step sizes Δt depend on", caption=CAPTION)
    table.add_column("stage", overflow="fold")
    for heading in ("epoch", "std", *SHARES, "own", "earlier"):
        table.add_column(heading, justify="right", no_wrap=True)
    for stage in course[first]:
        for epoch, label in labels.items():
            one = course[epoch][stage]
            table.add_row(
                escape(stage) if epoch == first else "",
                label,
                f"{one.deviation:.2g}",
                *(_percent(getattr(one, share)) for share in SHARES),
                f"{one.own:.2g}",
                f"{one.earlier:.2g}",
                end_section=epoch == last,
            )
    return table


def _percent(share: float) -> str:
    return "—" if math.isnan(share) else f"{share:z.1%}"


def plot_explanations(course: Course, path: Path) -> None:
    """Plot the shares through a training, and the sensitivities at its start and end as heat maps.

    Args:
        course: at least a start and an end.
        path: the picture, of the format that its suffix names.
    """
    first, *_, last = course
    stages = list(course[first])
    figure = Figure(figsize=(11.5, 0.6 + 3.0 * len(stages)), layout="constrained")
    panels = figure.subplots(len(stages), 3, squeeze=False, width_ratios=(1.35, 1, 1))
    for row, stage in zip(panels, stages, strict=True):
        _draw_shares(row[0], {epoch: by_stage[stage] for epoch, by_stage in course.items()})
        row[0].set_title(
            f"{literal(stage)}: standard deviation of Δt {course[first][stage].deviation:.2g} → "
            f"{course[last][stage].deviation:.2g}",
            fontsize="medium",
        )
        largest = max(course[epoch][stage].sensitivity.max().item() for epoch in (first, last))
        for axes, epoch, when in ((row[1], first, "start"), (row[2], last, "end")):
            image = _draw_sensitivity(axes, course[epoch][stage], largest)
            axes.set_title(f"sensitivity at the {when}", fontsize="medium")
        if largest > 0:
            figure.colorbar(image, ax=list(row[1:]), label="change of Δt")
    for axes in panels[-1, 1:]:
        axes.set_xlabel("block whose weights change")
    panels[-1, 0].set_xlabel("epoch")
    handles, labels = panels[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", ncols=len(SHARES), frameon=False)
    save(figure, path)


def _draw_shares(axes: Axes, course: Mapping[int, Explanation]) -> None:
    for number, share in enumerate(SHARES):
        values = [getattr(one, share) for one in course.values()]
        marker = "o" if len(course) < 30 else None
        axes.plot(list(course), values, color=f"C{number}", marker=marker, ms=4, label=share)
    if all(math.isnan(one.channel) for one in course.values()):
        axes.text(0.5, 0.5, "all step sizes are equal", ha="center", transform=axes.transAxes)
    first, *_, last = course
    margin = 0.04 * (last - first)
    axes.set_xlim(first - margin, last + margin)
    low, high = axes.get_ylim()
    axes.set_ylim(min(low, -0.03), max(high, 1.03))
    axes.axhline(0, color="0.4", linewidth=0.8)
    axes.set_ylabel("share of the variance")
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)


def _draw_sensitivity(axes: Axes, explanation: Explanation, largest: float) -> AxesImage:
    """Draw a heat map; what is zero stays white."""
    values = explanation.sensitivity.double().numpy()
    scale = LogNorm(largest / 10**DECADES, largest, clip=True) if largest > 0 else None
    image = axes.imshow(np.ma.masked_equal(values, 0.0), norm=scale, interpolation="nearest")
    if not values.any():
        axes.text(0.5, 0.5, "none", ha="center", transform=axes.transAxes)
    axes.set_ylabel("block")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    return image
