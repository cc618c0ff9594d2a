"""Draw the two diagrams of the page on the idea.

python docs/building/figures.py
"""

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

DOCS = Path(__file__).parents[1]
BLUE, ORANGE, GREY = "#dbe7f6", "#fde5c8", "#eeeeee"
mpl.rcParams["svg.hashsalt"] = "timestepper"  # the same file each time


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Make an empty drawing whose unit is a tenth of an inch."""
    figure = Figure((width / 10, height / 10))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes: Axes, x: float, y: float, text: str, colour: str, width: float = 14) -> None:
    """Draw a box around its middle."""
    shape = FancyBboxPatch(
        (x - width / 2, y - 2),
        width,
        4,
        "round,pad=0,rounding_size=0.8",
        fc=colour,
        ec="#555555",
        zorder=3,
    )
    axes.add_patch(shape)
    axes.text(x, y, text, ha="center", va="center", fontsize=10, zorder=4)


def arrow(axes: Axes, *points: tuple[float, float], colour: str = "#333333") -> None:
    """Draw a line through the points with a head at its end."""
    xs, ys = zip(*points[:-1], strict=True)
    axes.plot(xs, ys, color=colour, linewidth=1.1, solid_capstyle="butt")
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.1}
    axes.annotate("", points[-1], points[-2], arrowprops=style)


def plus(axes: Axes, x: float, y: float) -> None:
    """Draw the addition of shortcut and branch."""
    axes.plot(x, y, "o", markersize=13, mfc="white", mec="#333333")
    axes.text(x, y - 0.1, "+", ha="center", va="center", fontsize=12)


def controller() -> Figure:
    """Draw one stage: blocks below, the controller above."""
    figure, axes = canvas(86, 38)
    axes.text(1, 35.5, "controller of the stage", fontsize=10, style="italic")
    axes.text(1, 13.5, "blocks", fontsize=10, style="italic")
    for block, x in enumerate((16, 43, 70)):
        d = ("1", "2", "3")[block]
        box(axes, x, 33, f"$\\sigma\\,(W_{{out}}\\,h_{d} + b_{{out}})$", ORANGE, 18)
        box(axes, x, 26, "LSTM cell", ORANGE, 18)
        box(axes, x, 19, f"$\\mathrm{{ReLU}}\\,(W_{{in}}\\,\\bar w_{d} + b_{{in}})$", ORANGE, 18)
        box(axes, x, 9, f"branch $F(y_{d},\\ w_{d})$", BLUE, 18)
        arrow(axes, (x, 21), (x, 24))
        arrow(axes, (x, 28), (x, 31))
        arrow(axes, (x - 3, 11), (x - 3, 17))
        axes.text(x - 2.3, 14.4, f"$\\bar w_{d}$", fontsize=10, va="center")
        arrow(axes, (x + 9, 33), (x + 12.2, 33), (x + 12.2, 9), (x + 11.2, 9), colour="#c46a00")
        axes.text(x + 9.5, 34.2, f"$\\Delta t_{d}$", fontsize=10, color="#c46a00")
        axes.text(x + 10.2, 9, "×", fontsize=12, ha="center", va="center", color="#c46a00")
        arrow(axes, (x + 10.2, 7.8), (x + 10.2, 4.2))
        arrow(axes, (x, 3), (x, 7))
        plus(axes, x + 10.2, 3)
        if block < 2:
            arrow(axes, (x + 9, 26), (x + 18, 26))
            axes.text(x + 13.2, 26.7, f"$h_{d},\\,c_{d}$", fontsize=9)
    for start, end in ((1, 25), (27.4, 52), (54.4, 79)):
        arrow(axes, (start, 3), (end, 3))
    arrow(axes, (81.4, 3), (85.5, 3))
    axes.text(1, 4, "$y_1$", fontsize=10)
    axes.text(83, 4, "$y_4$", fontsize=10)
    return figure


def folding() -> Figure:
    """Draw a block while it is trained, and folded."""
    figure, axes = canvas(86, 30)
    names = "conv, norm, ReLU, conv"
    for y, label, norm in (
        (20, "while training", "norm:  $\\gamma\\,n + \\beta$"),
        (4.5, "folded", "norm:  $(\\Delta t\\,\\gamma)\\,n + (\\Delta t\\,\\beta)$"),
    ):
        axes.text(1, y + 7.5, label, fontsize=10, style="italic")
        box(axes, 24, y + 4.5, names, BLUE, 24)
        box(axes, 52, y + 4.5, norm, BLUE, 23)
        arrow(axes, (1, y - 1.5), (79, y - 1.5))
        arrow(axes, (7, y - 1.5), (7, y + 4.5), (12, y + 4.5))
        arrow(axes, (36, y + 4.5), (40.5, y + 4.5))
        arrow(axes, (63.5, y + 4.5), (80.2, y + 4.5), (80.2, y - 0.2))
        plus(axes, 80.2, y - 1.5)
        arrow(axes, (81.4, y - 1.5), (85.5, y - 1.5))
        axes.text(1, y - 0.7, "y", fontsize=10)
    box(axes, 70.5, 24.5, "× $\\Delta t$", ORANGE, 7)
    return figure


for draw in (controller, folding):
    path = DOCS / f"idea-{draw.__name__}.svg"
    draw().savefig(path, metadata={"Date": None})
    # Without the blanks that matplotlib leaves at the ends of lines.
    path.write_text("".join(f"{line.rstrip()}\n" for line in path.read_text().splitlines()))
