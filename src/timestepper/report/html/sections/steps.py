"""Step sizes by block and channel, and how they moved through the training."""

from __future__ import annotations

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import band, colour, figure, line
from timestepper.report.html.heat_map import extremes, heat_map, shown_epochs
from timestepper.report.html.parts import Missing, Part, Plot, Section, Text

PLAIN = "a plain network has no step sizes: each block's is 1"
LABELLED = 16
"""More names than this can't be read along one axis."""


def step_sizes(evidence: Evidence) -> Section:
    """Draw a run's step sizes."""
    title = "Step sizes"
    if not evidence.has_steps:
        return Section("steps", title, [Missing(PLAIN)])
    epochs = shown_epochs(evidence.steps)
    drawn, height = heat_map(evidence.steps, epochs, extremes(evidence.steps, epochs))
    recorded = len(next(iter(evidence.steps.values())))
    caption = "Move the slider to see how they came about; it starts before the first epoch."
    if len(epochs) < recorded:
        caption += (
            f" It stops at {len(epochs)} of {recorded} recorded times, to keep the page small."
        )
    parts: list[Part] = [
        Text(
            "Δt is what each channel of a residual branch is multiplied by; an ordinary network "
            "has Δt = 1."
        ),
        Plot(drawn, height, "Δt of every block and channel", caption),
        _along_depth(evidence, recorded),
    ]
    return Section("steps", title, parts)


def _along_depth(evidence: Evidence, recorded: int) -> Plot:
    """Draw means with the range of most channels, at the start and at the end."""
    blocks = list(evidence.steps)
    last = [rows[-1].double() for rows in evidence.steps.values()]
    first = [rows[0].double().mean().item() for rows in evidence.steps.values()]
    low, high = ([row.quantile(q).item() for row in last] for q in (0.1, 0.9))
    spread = band(blocks, low, high, "10th to 90th percentile of channels")
    means = [
        line(blocks, [row.mean().item() for row in last], f"after epoch {recorded - 1}"),
        line(blocks, first, "at the start", 1, line={"color": colour(9), "dash": "dash"}),
    ]
    drawn = figure([*spread, *means], "block, in order of depth", type="category")
    if len(blocks) > LABELLED:
        drawn.update_xaxes(nticks=LABELLED)
    return Plot(drawn, 320, "mean Δt over channels, along depth")
