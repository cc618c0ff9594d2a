"""Differences between methods, seed by seed, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from textwrap import wrap

from plotly import graph_objects as go

from timestepper.report.html.comparison.overview import different_images
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import colour, figure, literal
from timestepper.report.html.groups import Method
from timestepper.report.html.parts import Missing, Part, Plot, Plots, Section, Table, Text
from timestepper.report.statistics import Difference, difference

TITLE = "Differences"
LABEL = 44
"""Characters of a label that fit side by side on a phone."""
STATISTICS = (
    "Differences are taken seed by seed, after the last epoch; n is the number of seeds that both "
    "methods have. In brackets the 95 % interval of their mean (Student's t): one that holds zero "
    "is no difference that so few seeds can show. p is of the two-sided paired t-test, not "
    "corrected for the number of rows."
)


def accuracy(run: Evidence) -> float:
    """Return a run's accuracy after its last epoch, in percent."""
    return 100 * run.history[-1][f"{run.split}_accuracy"]


def loss(run: Evidence) -> float:
    """Return a run's loss after its last epoch."""
    return run.history[-1][f"{run.split}_loss"]


QUANTITIES: dict[str, tuple[Callable[[Evidence], float], str]] = {
    "accuracy (points)": (accuracy, "+.2f"),
    "loss": (loss, "+.4f"),
}


def differences(methods: Sequence[Method]) -> Section:
    """Compare each method with the one that was named first."""
    if note := different_images([run for method in methods for run in method.runs]):
        return Section("differences", TITLE, [Missing(note.removesuffix("."))])
    reasons = {name: why for method in methods for name, why in method.left_out().items()}
    left_out = [Text(f"{name} is left out: {why}.") for name, why in reasons.items()]
    if len(methods) == 1:
        only = Missing("all runs differ in their seed alone; there is nothing to compare them with")
        return Section("differences", TITLE, [only, *left_out])
    first, *others = methods
    compared = {other.label: _compare(other, first) for other in others}
    rows = [[label, *_cells(found)] for label, found in compared.items()]
    headings = [f"method − {first.label}", "n"]
    for quantity in QUANTITIES:
        headings += [quantity, "95 % interval", "p"]
    parts: list[Part] = [Text(STATISTICS), *left_out, Table(headings, rows)]
    with_intervals = {
        label: found
        for label, found in compared.items()
        if found and not all(math.isnan(one.estimate.low) for one in found.values())
    }
    if with_intervals:
        parts.append(_plots(with_intervals, first.label))
    return Section("differences", TITLE, parts)


def _compare(method: Method, reference: Method) -> dict[str, Difference] | None:
    """Compare two methods on the finished seeds that both have; None where there is none."""
    own, others = method.by_seed(), reference.by_seed()
    seeds = sorted(own.keys() & others.keys())
    if not seeds:
        return None
    return {
        quantity: difference([value(own[s]) for s in seeds], [value(others[s]) for s in seeds])
        for quantity, (value, _) in QUANTITIES.items()
    }


def _cells(found: dict[str, Difference] | None) -> list[str]:
    if found is None:
        return ["0", *("—", "no finished seed in common", "—") * len(QUANTITIES)]
    cells = [str(next(iter(found.values())).estimate.count)]
    for quantity, (_, form) in QUANTITIES.items():
        one = found[quantity].estimate
        if one.count == 1:
            interval = "one run each: no interval"
        elif math.isnan(one.low):
            interval = "all are equal: no interval"
        else:
            interval = f"[{one.low:{form}}, {one.high:{form}}]"
        p = found[quantity].p
        cells += [f"{one.mean:{form}}", interval, "—" if math.isnan(p) else f"{p:.2g}"]
    return cells


def _plots(compared: dict[str, dict[str, Difference]], reference: str) -> Plots:
    """Draw means with their intervals, a row for each method."""
    plots = []
    for quantity in QUANTITIES:
        means, low, high, names = [], [], [], []
        for label, found in compared.items():
            one = found[quantity].estimate
            if not math.isnan(one.low):
                means.append(one.mean)
                low.append(one.mean - one.low)
                high.append(one.high - one.mean)
                names.append(f"{label} (n = {one.count})")
        if not names:
            continue
        labels = [literal(name) for name in names]
        points = go.Scatter(
            x=means,
            y=labels,
            mode="markers",
            marker={"size": 9, "color": colour(0)},
            error_x={"type": "data", "symmetric": False, "array": high, "arrayminus": low},
            hovertemplate="%{y}: %{x:.4g}<extra></extra>",
        )
        drawn = figure([points], "difference", zeroline=True)
        drawn.update_xaxes(zerolinewidth=2, rangemode="tozero")
        drawn.update_yaxes(type="category", autorange="reversed", showticklabels=False, ticks="")
        wrapped = [wrap(label, LABEL) for label in names]
        # Beside the rows labels would leave a phone no room for them.
        for label, lines in zip(labels, wrapped, strict=True):
            drawn.add_annotation(
                **{"text": "<br>".join(map(literal, lines)), "align": "left", "showarrow": False},
                **{"x": 0, "xref": "paper", "xanchor": "left"},
                **{"y": label, "yanchor": "bottom", "yshift": 4},
            )
        most = max(map(len, wrapped))
        drawn.update_layout(showlegend=False, margin={"l": 12, "t": 10 + 9 * most})
        height = 58 + 9 * most + (26 + 17 * most) * len(labels)
        plots.append(Plot(drawn, height, f"{quantity} − {reference}"))
    return Plots(plots)
