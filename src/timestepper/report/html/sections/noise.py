"""Accuracy and loss under Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import band, figure, line
from timestepper.report.html.measurements import NOISE_FILE, Noise, is_older, read_noise
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section, Text

TITLE = "Noise"


def noise(evidence: Evidence) -> Section:
    """Draw what a run scores under noise."""
    measured = read_noise(evidence, ())
    if isinstance(measured, Missing):
        return Section("noise", TITLE, [measured])
    parts: list[Part] = [Text(measured.description)] if measured.description else []
    if is_older(evidence, NOISE_FILE):
        parts.append(
            Text(
                "It was measured before the last checkpoint was written; to measure that, run "
                f"timestepper robustness {evidence.run.folder} --force"
            )
        )
    return Section("noise", TITLE, [*parts, noise_plots({evidence.name: measured}, named=False)])


def noise_plots(measured: Mapping[str, Noise], *, named: bool) -> Plots:
    """Draw means over the draws with bands from the least to the most.

    Args:
        measured: by the networks' names.
        named: whether there is a legend.
    """
    plots = []
    for title, scale, quantity in (
        ("accuracy (%)", 100, "accuracy"),
        ("cross-entropy", 1, "loss"),
    ):
        traces = []
        for number, (name, one) in enumerate(measured.items()):
            values = scale * getattr(one, quantity)
            x = list(one.deviations)
            own = [line(x, values.mean(0).tolist(), name, number)]
            if len(values) > 1:
                own += band(x, values.min(0).tolist(), values.max(0).tolist(), "", number)
            for trace in own:
                trace.update(legendgroup=name)
            traces += own
        drawn = figure(traces, "standard deviation of the noise, in that of pixels")
        drawn.update_layout(showlegend=named)
        plots.append(Plot(drawn, 300, title, _caption(measured)))
    return Plots(plots)


def _caption(measured: Mapping[str, Noise]) -> str:
    draws = {len(one.accuracy) for one in measured.values()}
    if draws == {1}:
        return ""
    shown = " or ".join(map(str, sorted(draws)))
    return f"Mean of {shown} draws; band: from the least to the most."
