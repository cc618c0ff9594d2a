"""Evolution time by stage."""

from __future__ import annotations

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import figure, line, whole
from timestepper.report.html.parts import Missing, Part, Plot, Section, Table, Text
from timestepper.report.html.sections.steps import PLAIN

PREFIX = "evolution_time/"


def evolution(evidence: Evidence) -> Section:
    """Draw how a run's evolution times moved."""
    title = "Evolution time"
    if not evidence.has_steps:
        return Section("evolution", title, [Missing(PLAIN)])
    epochs = [int(row["epoch"]) for row in evidence.history]
    times = evolution_times(evidence)
    lines = [line(epochs, curve, stage, n) for n, (stage, curve) in enumerate(times.items())]
    drawn = figure(lines, "epoch", **whole(len(epochs)))
    rows = [[stage, f"{curve[-1]:.3f}"] for stage, curve in times.items()]
    parts: list[Part] = [
        Text(
            "T is how far a stage carries its state: the sum of its blocks' Δt, mean over "
            "channels. Of an ordinary network it is the number of blocks."
        ),
        Plot(drawn, 300, "T of each stage"),
        Table(
            ("stage", f"T after epoch {evidence.epochs}"),
            [*rows, ["all", f"{sum(curve[-1] for curve in times.values()):.3f}"]],
        ),
    ]
    return Section("evolution", title, parts)


def evolution_times(evidence: Evidence) -> dict[str, list[float]]:
    """Return each stage's evolution time after each epoch."""
    columns = [column for column in evidence.history[-1] if column.startswith(PREFIX)]
    return {column.removeprefix(PREFIX): evidence.curve(column) for column in columns}
