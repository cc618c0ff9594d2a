"""Images with what the network makes of them."""

from __future__ import annotations

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import Missing, Part, Pictures, Section, Text
from timestepper.report.html.samples import Samples


def predictions(evidence: Evidence, samples: Samples | Missing) -> Section:
    """Show images that are classified wrong, and right."""
    title = "Predictions"
    if isinstance(samples, Missing):
        return Section("predictions", title, [samples])
    wrong = samples.seen - samples.right
    when = "" if samples.epochs == evidence.epochs else f" after epoch {samples.epochs}"
    parts: list[Part] = [
        Text(
            f"The network{when} classifies {samples.right} of the first {samples.seen} "
            f"{samples.split} images right and {wrong} wrong; the first of each are shown."
        )
    ]
    if samples.shown_wrong:
        parts.append(Pictures("wrong", samples.shown_wrong))
    if samples.shown_right:
        parts.append(Pictures("right", samples.shown_right))
    return Section("predictions", title, parts)
