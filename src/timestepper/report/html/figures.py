"""What all plots of the page have in common.

Colours of text, axes and background come from the page's style sheet, so that they follow light and
dark; figures only choose the colours of data, which can be read on both.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from plotly import graph_objects as go

COLOURS = (
    *("#3b82f6", "#f97316", "#16a34a", "#d946ef", "#0ea5b7"),
    *("#ef4444", "#8b5cf6", "#a3862a", "#ec4899", "#64748b"),
)
DASHES = ("solid", "dash", "dot", "dashdot")
SCALE = "Viridis"
"""Of heat maps: even steps of lightness, and no hue that means good or bad."""
MARKED = 12
"""Points of a line are marked up to this many."""


def colour(number: int) -> str:
    """Give the colour of the n-th series."""
    return COLOURS[number % len(COLOURS)]


def dash(number: int) -> str:
    """Give its dash, which tells it from one that has the same colour."""
    return DASHES[number // len(COLOURS) % len(DASHES)]


def literal(name: str) -> str:
    """Write a name so that plotly, which takes text for markup or a template, draws it as it is."""
    return html.escape(name, quote=False).replace("%{", "%&#123;")


def line(
    x: Sequence[Any], y: Sequence[float | None], name: str, number: int = 0, **more: Any
) -> go.Scatter:
    """Draw a series.

    Args:
        x: where.
        y: what; None where there is nothing.
        name: what the legend calls it.
        number: which colour and dash it has.
        more: other settings of plotly's.
    """
    style = {"color": colour(number), "dash": dash(number)} | more.pop("line", {})
    how = {"mode": "lines+markers" if len(x) <= MARKED else "lines"} | more
    return go.Scatter(x=x, y=y, name=literal(name), line=style, **how)


def band(
    x: Sequence[Any], low: Sequence[float], high: Sequence[float], name: str, number: int = 0
) -> list[go.Scatter]:
    """Draw the area between two series, in the colour of the n-th.

    Args:
        x: where.
        low: its lower edge.
        high: its upper edge.
        name: what the legend calls it; empty where the legend leaves it out.
        number: which colour it has.
    """
    red, green, blue = (int(colour(number)[i : i + 2], 16) for i in (1, 3, 5))
    edge = {"x": x, "mode": "lines", "line": {"width": 0}, "hoverinfo": "skip"}
    return [
        go.Scatter(y=high, showlegend=False, **edge),
        go.Scatter(
            y=low,
            name=literal(name),
            showlegend=bool(name),
            fill="tonexty",
            fillcolor=f"rgba({red},{green},{blue},0.18)",
            **edge,
        ),
    ]


def figure(
    traces: Sequence[go.Scatter | go.Heatmap], x: str, *, log: bool = False, **axis: Any
) -> go.Figure:
    """Make a figure with one pair of axes; what is drawn upwards stands in the plot's title.

    Args:
        traces: what is drawn.
        x: title of the horizontal axis.
        log: whether the vertical axis is logarithmic.
        axis: other settings of the horizontal axis.
    """
    return go.Figure(
        traces,
        {
            "xaxis": {"title": {"text": x}, **axis},
            "yaxis": {"type": "log", "nticks": 5, "tickformat": ".3~g"} if log else {},
            "showlegend": sum(trace.showlegend is not False for trace in traces) > 1,
        },
    )


def whole(count: int) -> dict[str, Any]:
    """Keep an axis of so many whole numbers from ticks between them."""
    return {"dtick": 1} if count <= MARKED else {}
