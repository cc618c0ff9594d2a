"""How perturbations grow along depth, and what gradients are left of."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import figure, line, literal, whole
from timestepper.report.html.measurements import (
    STABILITY_FILE,
    is_another_file,
    is_older,
    name_in_stability,
    read_bound,
    read_stability,
    stability_command,
)
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section, Table, Text
from timestepper.report.names import power_of_ten

TITLE = "Stability along depth"
KINDS = {
    "bound": "bound of Proposition 1",
    "worst": "direction that grows most",
    "random": "random directions",
}
STYLES = {"bound": "dash", "worst": "solid", "random": "dot"}
POWER = {"tickprefix": "10<sup>", "ticksuffix": "</sup>", "nticks": 7}


def stability(evidence: Evidence) -> Section:
    """Draw what was measured of a run's stability."""
    measured = read_stability(evidence)
    if isinstance(measured, Missing):
        return Section("stability", TITLE, [*bounds([evidence]), measured])
    parts: list[Part] = [
        Text(
            "How much a small change of the first state has grown after each step (1: it has not), "
            f"measured on {_images(measured)} images{_sizes(measured)}; and what is left of the "
            "loss's gradient at each state."
        )
    ]
    path = evidence.run.folder / STABILITY_FILE
    own = name_in_stability(evidence, path, measured)
    if own:
        parts += remarks(evidence, path, own)
    named = list(measured) != [own]
    parts.append(Plots([growth(measured, named=named), *_gradients(measured, named=named)]))
    parts.append(stages(measured, named=named))
    reasons = dict.fromkeys(reason for one in measured.values() for reason in one["no_bound"])
    parts += [Text(f"No bound: {reason}") for reason in reasons]
    return Section("stability", TITLE, parts)


def remarks(evidence: Evidence, path: Path, name: str) -> list[Part]:
    """Say where what was measured of a run is not its last checkpoint as it is now.

    Args:
        evidence: the run.
        path: the file that has it.
        name: what the file calls it.
    """
    parts: list[Part] = []
    if is_another_file(evidence, name):
        parts.append(Text(f"Of {evidence.name} {name} was measured, not the last checkpoint."))
    if is_older(evidence, path):
        parts.append(
            Text(
                f"That of {evidence.name} was measured before the last checkpoint was written; to "
                f"measure that, run {stability_command([evidence])} --force"
            )
        )
    return parts


def bounds(runs: Sequence[Evidence]) -> list[Part]:
    """Tabulate the bounds that ``timestepper reproduce`` has computed for runs, where it has."""
    found = {run.name: read_bound(run) for run in runs}
    rows = [
        [name, power_of_ten(bound)] for name, bound in found.items() if isinstance(bound, float)
    ]
    parts: list[Part] = [bound for bound in found.values() if isinstance(bound, Missing)]
    if rows:
        caption = (
            "Bound of Proposition 1 on growth from the first state to the last, as timestepper "
            "reproduce computed it; true growth may be far below."
        )
        parts.insert(0, Table(("run", "bound"), rows, caption=caption))
    return parts


def _images(measured: dict[str, dict[str, Any]]) -> str:
    return " or ".join(dict.fromkeys(str(one["images"]) for one in measured.values()))


def _sizes(measured: dict[str, dict[str, Any]]) -> str:
    """Say how large the changes were, where files have it."""
    sizes = dict.fromkeys(
        f"{float(one['epsilon']):g}" for one in measured.values() if "epsilon" in one
    )
    return f" with changes of {' or '.join(sizes)} times the state's norm" if sizes else ""


def growth(measured: dict[str, dict[str, Any]], *, named: bool) -> Plot:
    """Draw growth along depth, a line of each kind for each network, whose name may be shown."""
    lines = []
    for number, (name, one) in enumerate(measured.items()):
        blocks = [step["name"] for step in one["steps"]]
        states = list(range(1, len(blocks) + 1))
        for place, (kind, label) in enumerate(KINDS.items()):
            values = [_logarithm(step[kind], kind) for step in one["steps"]]
            if all(value is None for value in values):
                continue
            if named:
                series = line(states, values, name, number, line={"dash": STYLES[kind]})
                series.update(legendgroup=name, showlegend=kind == "worst")
            else:
                series = line(states, values, label, place)
            shown = f"{literal(name)}, {label}" if named else label
            series.update(
                text=blocks, hovertemplate=f"{shown}, %{{text}}: %{{y:.3f}}<extra></extra>"
            )
            lines.append(series)
    drawn = figure(lines, "n: steps taken", **whole(len(lines[0].x)))
    drawn.update_layout(yaxis=POWER, showlegend=True)
    caption = ", ".join(f"{STYLES[kind]}: {label}" for kind, label in KINDS.items())
    return Plot(drawn, 320, "growth ‖y′ₙ − yₙ‖ / ‖y′₀ − y₀‖", f"Lines: {caption}." if named else "")


def _logarithm(value: float | None, kind: str) -> float | None:
    """Give log10 of a growth; the bound, which may pass any float, is kept as that."""
    if value is None or kind == "bound":
        return value
    return math.log10(value) if value > 0 else None


def _gradients(measured: dict[str, dict[str, Any]], *, named: bool) -> list[Plot]:
    lines: list[Any] = []
    for name, one in measured.items():
        for label, flow in one["gradient_flow"].items():
            states = list(range(len(flow["norms"])))
            shown = f"{name}: {label}" if named else label
            lines.append(line(states, flow["norms"], shown, len(lines)))
    if not lines:
        return []
    drawn = figure(lines, "n: steps taken", log=True, **whole(len(lines[0].x)))
    return [Plot(drawn, 320, "gradient ‖∂L/∂yₙ‖, mean over images")]


def stages(measured: dict[str, dict[str, Any]], *, named: bool) -> Table:
    """Tabulate growth within each stage of each network, whose name may be shown."""
    rows = [
        [
            *([name] if named else []),
            stage["name"],
            f"{stage['evolution_time']:.3f}",
            _number(stage["random"]),
            _number(stage["worst"]),
            power_of_ten(stage["bound"]),
        ]
        for name, one in measured.items()
        for stage in one["stages"]
    ]
    headings = (*(["network"] if named else []), "stage", "T", "random", "most", "bound")
    return Table(
        headings,
        rows,
        text_columns=len(headings) - 4,
        caption="Growth from a stage's first state to its last: along random directions, along the "
        "one that grows most, and the bound of Proposition 1.",
    )


def _number(value: float | None) -> str:
    return "∞" if value is None else f"{value:.4g}"
