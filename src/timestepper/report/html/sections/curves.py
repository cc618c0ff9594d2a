"""Loss, accuracy and learning rate over epochs."""

from __future__ import annotations

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import figure, line, whole
from timestepper.report.html.parts import Plot, Plots, Section


def curves(evidence: Evidence) -> Section:
    """Draw a run's curves."""
    epochs = [int(row["epoch"]) for row in evidence.history]
    plots = []
    for quantity, title, scale in (
        ("accuracy", "accuracy (%)", 100),
        ("loss", "cross-entropy", 1),
    ):
        lines = [
            line(epochs, [scale * v for v in evidence.curve(f"{split}_{quantity}")], split, number)
            for number, split in enumerate(("train", evidence.split))
        ]
        drawn = figure(lines, "epoch", log=quantity == "loss", **whole(len(epochs)))
        plots.append(Plot(drawn, 300, title))
    if "penalty" in evidence.history[-1]:
        penalty = [row.get("penalty") for row in evidence.history]
        drawn = figure([line(epochs, penalty, "penalty")], "epoch", **whole(len(epochs)))
        plots.append(Plot(drawn, 300, f"stability penalty ({_penalty(evidence)})"))
    rate = line(epochs, evidence.curve("lr"), "learning rate")
    drawn = figure([rate], "epoch", **whole(len(epochs)))
    plots.append(Plot(drawn, 300, "learning rate at the end of the epoch"))
    return Section("curves", "Training", [Plots(plots)])


def _penalty(evidence: Evidence) -> str:
    chosen = evidence.configuration.stability
    return f"{chosen.penalty}, strength {chosen.strength:g}"
