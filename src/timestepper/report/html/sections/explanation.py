"""What step sizes depend on: channel, position and weights."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from plotly import graph_objects as go

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import SCALE, figure, line, whole
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section, Text
from timestepper.report.html.sections.again import command
from timestepper.report.html.sections.evolution import evolution_times
from timestepper.report.html.sections.steps import LABELLED, PLAIN
from timestepper.stepping import Explanation

SHARES = ("channel", "position", "weights")
DECADES = 3
"""Range of the sensitivities that colours tell apart."""


def explanation(evidence: Evidence) -> Section:
    """Draw what a run has recorded of its step sizes' dependence."""
    title = "What step sizes depend on"
    if not evidence.has_steps:
        return Section("explanation", title, [Missing(PLAIN)])
    if not evidence.explanations:
        if why := _nothing_to_explain(evidence):
            return Section("explanation", title, [Missing(why)])
        stepping = replace(evidence.configuration.stepping, explain=True)
        recording = replace(evidence.configuration, stepping=stepping)
        again = command(recording, f"{evidence.folder}-explained")
        return Section("explanation", title, [Missing("it was not recorded", again)])
    parts: list[Part] = [
        Text(
            "Shares of the variance of a stage's step sizes: what differs between channels and is "
            "the same in every block, what follows from a block's position alone, and what follows "
            "from its weights. A share can be negative, where one undoes what another does."
        ),
        Plots([_shares(evidence, stage) for stage in evidence.explanations[-1]]),
        Text(
            "Sensitivity: how much the step sizes of a block change, root mean square and to first "
            "order, when the averaged weights of another, or its own, change by as much as they "
            "are. What is left blank is zero."
        ),
        Plots([_sensitivity(stage, one) for stage, one in evidence.explanations[-1].items()]),
    ]
    return Section("explanation", title, parts)


def _nothing_to_explain(evidence: Evidence) -> str:
    """Say why no training could record it, empty where one could."""
    controller = evidence.configuration.stepping.controller
    if isinstance(controller, float):
        return f"all step sizes are fixed at {controller:g}, so there is nothing to explain"
    if len(evidence.steps) == len(evolution_times(evidence)):  # as many blocks as stages
        return (
            "every stage has one block only, where position and weights can't be told apart, so "
            "there is nothing to compare"
        )
    return ""


def _shares(evidence: Evidence, stage: str) -> Plot:
    course = [epoch[stage] for epoch in evidence.explanations]
    epochs = list(range(len(course)))
    lines = [
        line(epochs, [_percent(getattr(one, share)) for one in course], share, number)
        for number, share in enumerate(SHARES)
    ]
    drawn = figure(lines, "epoch (0: the start)", **whole(len(epochs)))
    caption = f"Standard deviation of Δt: {course[0].deviation:.2g} → {course[-1].deviation:.2g}."
    return Plot(drawn, 280, f"{stage}: share of the variance (%)", caption)


def _percent(share: float) -> float | None:
    """Give a share in percent; None where all step sizes are equal."""
    return None if math.isnan(share) else 100 * share


def _sensitivity(stage: str, one: Explanation) -> Plot:
    values = one.sensitivity.double().numpy()
    with np.errstate(divide="ignore"):
        logarithms = np.log10(values)
    largest = logarithms.max() if values.any() else 0.0
    drawn = figure(
        [
            go.Heatmap(
                z=[[v if math.isfinite(v) else None for v in row] for row in logarithms.tolist()],
                x=list(one.blocks),
                y=list(one.blocks),
                text=[[f"{value:.2g}" for value in row] for row in values.tolist()],
                hovertemplate="weights of %{x}, Δt of %{y}: %{text}<extra></extra>",
                colorscale=SCALE,
                zmin=largest - DECADES,
                zmax=largest,
                colorbar={
                    **{"thickness": 12, "outlinewidth": 0, "dtick": 1},
                    **{"tickprefix": "10<sup>", "ticksuffix": "</sup>"},
                },
            )
        ],
        "block whose weights change",
        type="category",
    )
    drawn.update_yaxes(type="category", autorange="reversed")
    if len(one.blocks) > LABELLED:
        drawn.update_xaxes(nticks=LABELLED)
        drawn.update_yaxes(nticks=LABELLED)
    return Plot(drawn, 340, f"{stage}: sensitivity after the last epoch")
