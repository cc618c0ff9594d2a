"""How perturbations grow along depth, and what gradients are left of."""

from __future__ import annotations

import math
from typing import Any

from timestepper.report.html import names
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import dash, figure, line, whole
from timestepper.report.html.measurements import STABILITY_FILE, is_older, read_stability
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section, Table, Text

TITLE = "Stability along depth"
KINDS = {
    "bound": "bound of Proposition 1",
    "worst": "direction that grows most",
    "random": "random directions",
}


def stability(evidence: Evidence) -> Section:
    """Draw what was measured of a run's stability."""
    measured = read_stability(evidence)
    if isinstance(measured, Missing):
        return Section("stability", TITLE, [measured])
    parts: list[Part] = [
        Text(
            "How much a small change of the first state has grown after each step (1: it has not), "
            f"measured on {_images(measured)} images; and what is left of the loss's gradient at "
            "each state."
        )
    ]
    if is_older(evidence, STABILITY_FILE):
        parts.append(
            Text(
                "It was measured before the last checkpoint was written; to measure that, run "
                f"timestepper stability {evidence.run.folder} --force"
            )
        )
    parts.append(Plots([growth(measured), *_gradients(measured)]))
    parts.append(stages(measured))
    reasons = dict.fromkeys(reason for one in measured.values() for reason in one["no_bound"])
    parts += [Text(f"No bound: {reason}") for reason in reasons]
    return Section("stability", TITLE, parts)


def _images(measured: dict[str, dict[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(str(one["images"]) for one in measured.values()))


def growth(measured: dict[str, dict[str, Any]]) -> Plot:
    """Draw growth along depth, a line of each kind for each network."""
    several = len(measured) > 1
    lines = []
    for number, (name, one) in enumerate(measured.items()):
        states = list(range(1, len(one["steps"]) + 1))
        for place, (kind, label) in enumerate(KINDS.items()):
            values = [_power(step[kind], kind) for step in one["steps"]]
            if all(value is None for value in values):
                continue
            if several:
                label, style = f"{name}: {label}", {"dash": dash(10 * place)}
                series = line(states, values, label, number, line=style)
            else:
                series = line(states, values, label, place)
            blocks = [step["name"] for step in one["steps"]]
            series.update(text=blocks, hovertemplate="%{text}: %{y:.4g}")
            lines.append(series)
    drawn = figure(lines, "n: steps taken", log=True, **whole(len(lines[0].x)))
    return Plot(drawn, 320, "‖y′ₙ − yₙ‖ / ‖y′₀ − y₀‖")


def _power(value: float | None, kind: str) -> float | None:
    """Give a growth; the bound is kept as a logarithm, and may pass any float."""
    if value is None or kind != "bound":
        return value if value is None or value > 0 else None
    return math.pow(10, value) if abs(value) < 300 else None


def _gradients(measured: dict[str, dict[str, Any]]) -> list[Plot]:
    several = len(measured) > 1
    lines = []
    for name, one in measured.items():
        for label, flow in one["gradient_flow"].items():
            states = list(range(len(flow["norms"])))
            shown = f"{name}: {label}" if several else label
            lines.append(line(states, flow["norms"], shown, len(lines)))
    if not lines:
        return []
    drawn = figure(lines, "n: steps taken", log=True, **whole(len(lines[0].x)))
    return [Plot(drawn, 320, "gradient ‖∂L/∂yₙ‖, mean over images")]


def stages(measured: dict[str, dict[str, Any]]) -> Table:
    """Tabulate growth within each stage."""
    rows = [
        [
            *([name] if len(measured) > 1 else []),
            stage["name"],
            f"{stage['evolution_time']:.3f}",
            _number(stage["random"]),
            _number(stage["worst"]),
            names.power_of_ten(stage["bound"]),
        ]
        for name, one in measured.items()
        for stage in one["stages"]
    ]
    headings = ("stage", "T", "random", "most", "bound")
    if len(measured) > 1:
        headings = ("network", *headings)
    return Table(
        headings,
        rows,
        text_columns=len(headings) - 4,
        caption="Growth from a stage's first state to its last: along random directions, along the "
        "one that grows most, and the bound of Proposition 1.",
    )


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"
