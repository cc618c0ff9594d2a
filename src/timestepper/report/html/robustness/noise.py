"""Accuracy and loss under Gaussian noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import Scores
from timestepper.report.html.parts import Part, Plots, Section
from timestepper.report.html.robustness.found import curves, find, missing, remarks
from timestepper.robustness import GaussianNoise


def noise(runs: Sequence[Evidence]) -> Section:
    """Draw what runs score under noise, those of which it was measured."""
    threat = GaussianNoise.name
    found = find(runs, threat)
    parts: list[Part] = remarks(runs, threat, found.scores)
    if found.scores:
        plots = curves(
            found.scores,
            "standard deviation of the noise, in that of pixels",
            named=len(runs) > 1,
            banded=True,
            caption=_caption(found.scores),
        )
        parts.append(Plots(plots))
    return Section("noise", "Noise", parts + missing(runs, threat, found))


def _caption(scores: Mapping[str, Scores]) -> str:
    draws = {len(one.cases) for one in scores.values()}
    if draws == {1}:
        return ""
    shown = " or ".join(map(str, sorted(draws)))
    return f"Mean of {shown} draws; band: from the least to the most."
