"""Step sizes of several runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from timestepper.report.html.figures import figure, line, literal
from timestepper.report.html.groups import Method
from timestepper.report.html.heat_map import extremes, heat_map
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section
from timestepper.report.html.sections.steps import LABELLED


def step_sizes(methods: Sequence[Method]) -> Section:
    """Draw the runs' means along depth over each other, and their heat maps beside each other."""
    title = "Step sizes"
    stepped = [
        (number, method, run)
        for number, method in enumerate(methods)
        for run in method.runs
        if run.has_steps
    ]
    if not stepped:
        why = "all of these are plain networks, which have no step sizes: each block's is 1"
        return Section("steps", title, [Missing(why)])
    lines = []
    shown: set[str] = set()
    for number, method, run in stepped:
        means = [rows[-1].double().mean().item() for rows in run.steps.values()]
        series = line(list(run.steps), means, method.label, number, opacity=0.85)
        series.update(
            legendgroup=method.label,
            showlegend=method.label not in shown,
            hovertemplate=f"{literal(run.name)}, %{{x}}: %{{y:.4f}}<extra></extra>",
        )
        shown.add(method.label)
        lines.append(series)
    blocks = merged(run.steps for _, _, run in stepped)
    drawn = figure(lines, "block, in order of depth", type="category")
    drawn.update_xaxes(categoryorder="array", categoryarray=blocks)
    if len(blocks) > LABELLED:
        drawn.update_xaxes(nticks=LABELLED)
    drawn.update_layout(showlegend=True)
    lows, highs = zip(*(extremes(run.steps, [-1]) for _, _, run in stepped), strict=True)
    maps = []
    for _, method, run in stepped:
        heat, height = heat_map(run.steps, [-1], (min(lows), max(highs)))
        maps.append(Plot(heat, height, f"{run.name}: {method.label}, epoch {run.epochs}"))
    parts: list[Part] = [Plot(drawn, 340, "mean Δt over channels, along depth"), Plots(maps)]
    return Section("steps", title, parts)


def merged(orders: Iterable[Iterable[str]]) -> list[str]:
    """Merge lists of blocks so that each keeps its order of depth.

    Args:
        orders: lists whose common blocks are in one order.
    """
    found: list[str] = []
    for blocks in orders:
        place = 0
        for name in blocks:
            if name in found:
                place = found.index(name)
            else:
                found.insert(place, name)
            place += 1
    return found
