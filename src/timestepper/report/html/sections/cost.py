"""Parameters and operations, while training and afterwards."""

from __future__ import annotations

from timestepper.report.html import names
from timestepper.report.html.costs import Costs
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.parts import Missing, Section, Table

WHAT = (
    "Operations: multiply-accumulates of one forward pass for one image of {width}×{height} "
    "pixels: those of convolutions and matrix products, and products and quotients element by "
    "element; norms, activations, pooling and sums are not counted."
)


def cost(evidence: Evidence, counted: Costs | Missing) -> Section:
    """Tabulate what a run's network costs."""
    title = "Parameters and operations"
    if isinstance(counted, Missing):
        return Section("cost", title, [counted])
    forms = {"training, with controllers": counted.training}
    if not evidence.has_steps:
        forms = {"training": counted.training}
    forms["inference, folded" if evidence.has_steps else "inference"] = counted.inference
    rows = [
        [form, f"{counts.parameters:,}", names.count(counts.operations)]
        for form, counts in forms.items()
    ]
    _, height, width = evidence.data["shape"]
    caption = WHAT.format(width=width, height=height)
    return Section(
        "cost", title, [Table(("form", "parameters", "operations"), rows, caption=caption)]
    )
