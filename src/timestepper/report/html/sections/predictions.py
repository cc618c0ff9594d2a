"""Images with what the network makes of them."""

from __future__ import annotations

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import Missing, Part, Pictures, Section, Text
from timestepper.report.html.samples import SHOWN, Samples


def predictions(evidence: Evidence, samples: Samples | Missing) -> Section:
    """Show images that are classified wrong, and right."""
    title = "Predictions"
    if isinstance(samples, Missing):
        return Section("predictions", title, [samples])
    wrong = samples.seen - samples.right
    which = f"all {samples.seen:,} {samples.split} images"
    if samples.seen < samples.of:
        which = f"{samples.seen:,} of the {samples.of:,} {samples.split} images, drawn at random,"
    taken = f"{when} " if (when := samples.taken(evidence.epochs)) else ""
    parts: list[Part] = [
        Text(
            f"Of {which} the network {taken}classifies {samples.right:,} right and {wrong:,} "
            f"wrong; up to {SHOWN} of each are shown."
        )
    ]
    if samples.shown_wrong:
        parts.append(Pictures("wrong", samples.shown_wrong))
    if samples.shown_right:
        parts.append(Pictures("right", samples.shown_right))
    return Section("predictions", title, parts)
