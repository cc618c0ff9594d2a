"""Accuracy and loss under noise, corruptions and attacks, as plots and tables."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from timestepper.report.names import literal
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.styles import dash, legend_columns
from timestepper.robustness import CommonCorruptions, Outcome

TITLES = {
    "noise": "Accuracy and loss under Gaussian noise",
    "corruptions": "Accuracy and loss under common corruptions",
    "fgsm": "Accuracy and loss under FGSM",
    "pgd": "Accuracy and loss under PGD",
    "autoattack": "Accuracy and loss under AutoAttack (adversarial-robustness-toolbox's)",
}
GREY_LEVELS = 255
"""ε is shown in these, of which white has so many."""
FOLDERS = "folders: "
"""What a CSV file's comment begins with that holds, as JSON, where the networks' runs lie."""


def robustness_table(outcomes: Mapping[str, Outcome]) -> ResultTable:
    """Sum up what networks score under one threat.

    Args:
        outcomes: by the networks' names; all of one threat.

    Returns:
        For each network means over the draws at each level; of corruptions, those over the
        severities, and over everything.
    """
    first = next(iter(outcomes.values()))
    if first.threat == CommonCorruptions.name:
        rows = [
            row for name, outcome in outcomes.items() for row in _corruption_rows(name, outcome)
        ]
        level = Column("corruption", "corruption", text=True)
        notes = ["Of each corruption the mean over its severities."]
    else:
        rows = [row for name, outcome in outcomes.items() for row in _level_rows(name, outcome)]
        level = Column(_key(first), _heading(first), decimals=None)
        notes = []
    return ResultTable(
        title=TITLES[first.threat],
        columns=(
            Column("network", "network", text=True),
            level,
            Column("accuracy_percent", "accuracy (%)", decimals=2),
            Column("loss", "cross-entropy", decimals=4),
        ),
        rows=rows,
        notes=[first.description, *notes],
    )


def every_score(outcomes: Mapping[str, Outcome]) -> ResultTable:
    """List every score of networks under one threat: of each draw or corruption at each level.

    Args:
        outcomes: as for :func:`robustness_table`.
    """
    first = next(iter(outcomes.values()))
    rows: list[tuple[Cell, ...]] = [
        (name, case, level, accuracy, loss)
        for name, outcome in outcomes.items()
        for case, accuracies, losses in zip(
            outcome.cases, outcome.accuracy.tolist(), outcome.loss.tolist(), strict=True
        )
        for level, accuracy, loss in zip(outcome.levels, accuracies, losses, strict=True)
    ]
    keys = ("network", "case", _key(first), "accuracy", "loss")
    return ResultTable(
        title=TITLES[first.threat],
        columns=[Column(key, key, text=key in ("network", "case")) for key in keys],
        rows=rows,
        notes=[first.description],
    )


def plot_robustness(outcomes: Mapping[str, Outcome]) -> Figure | None:
    """Plot what networks score under one threat.

    Args:
        outcomes: as for :func:`robustness_table`.

    Returns:
        Accuracy and loss against the level, with the range of the draws; of corruptions, accuracy
        against severity, and corruption by corruption. None where there is nothing but one level.
    """
    first = next(iter(outcomes.values()))
    if first.threat == CommonCorruptions.name:
        return _plot_corruptions(outcomes)
    return _plot_curves(outcomes) if len(first.levels) > 1 else None


def _level_rows(name: str, outcome: Outcome) -> list[tuple[Cell, ...]]:
    accuracy, loss = outcome.accuracy.mean(0).tolist(), outcome.loss.mean(0).tolist()
    return [
        (name, level, 100 * a, b)
        for level, a, b in zip(_shown_levels(outcome), accuracy, loss, strict=True)
    ]


def _corruption_rows(name: str, outcome: Outcome) -> list[tuple[Cell, ...]]:
    accuracy, loss = outcome.accuracy.mean(1).tolist(), outcome.loss.mean(1).tolist()
    rows: list[tuple[Cell, ...]] = [
        (name, case, 100 * a, b) for case, a, b in zip(outcome.cases, accuracy, loss, strict=True)
    ]
    mean = outcome.accuracy.mean().item(), outcome.loss.mean().item()
    return [*rows, (name, "mean", 100 * mean[0], mean[1])]


def _plot_curves(outcomes: Mapping[str, Outcome]) -> Figure:
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, quantity in zip(panels, ("accuracy", "loss"), strict=True):
        for number, (name, outcome) in enumerate(outcomes.items()):
            _plot_line(axes, outcome, quantity, name, number, mean_of="draws")
        axes.set_xlabel(_heading(next(iter(outcomes.values()))))
    _share_legend(figure, panels[0])
    return figure


def _plot_corruptions(outcomes: Mapping[str, Outcome]) -> Figure:
    cases = next(iter(outcomes.values())).cases
    height = 1.4 + len(cases) * (0.12 + 0.09 * len(outcomes))
    figure = Figure(figsize=(9, max(4.2, height)), layout="constrained")
    left, right = figure.subplots(1, 2)
    thickness = 0.8 / len(outcomes)
    places = np.arange(len(cases))
    for number, (name, outcome) in enumerate(outcomes.items()):
        _plot_line(left, outcome, "accuracy", name, number, mean_of="corruptions")
        offset = (number - (len(outcomes) - 1) / 2) * thickness
        shares = 100 * outcome.accuracy.mean(1).numpy()
        right.barh(places + offset, shares, thickness, color=f"C{number}")
    left.set_xlabel("severity")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.set_yticks(places, [case.replace("_", " ") for case in cases])
    right.invert_yaxis()
    right.set_xlabel("accuracy (%), mean over severities")
    right.grid(alpha=0.3, axis="x")
    right.set_axisbelow(True)
    right.margins(y=0.01)
    _share_legend(figure, left)
    return figure


def _plot_line(
    axes: Axes, outcome: Outcome, quantity: str, name: str, number: int, *, mean_of: str
) -> None:
    """Plot the mean over the cases against the level; of draws, a band from least to most."""
    values = 100 * outcome.accuracy if quantity == "accuracy" else outcome.loss
    levels = _shown_levels(outcome)
    colour, mean = f"C{number}", values.mean(0).numpy()
    style = "o" + dash(number)
    axes.plot(levels, mean, style, color=colour, markersize=4, label=literal(name))
    if mean_of == "draws" and len(outcome.cases) > 1:
        low, high = values.min(0).values.numpy(), values.max(0).values.numpy()
        axes.fill_between(levels, low, high, color=colour, alpha=0.25, linewidth=0)
    of = f", mean of {len(outcome.cases)} {mean_of}" if len(outcome.cases) > 1 else ""
    axes.set_ylabel(("accuracy (%)" if quantity == "accuracy" else "cross-entropy") + of)
    axes.grid(alpha=0.3)


def _share_legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=legend_columns(labels, figure.get_figwidth()),
        frameon=False,
    )


def _shown_levels(outcome: Outcome) -> list[float]:
    scale = GREY_LEVELS if outcome.unit == "ε" else 1
    return [scale * level for level in outcome.levels]


def _heading(outcome: Outcome) -> str:
    return f"ε ({GREY_LEVELS}ths of white)" if outcome.unit == "ε" else outcome.unit


def _key(outcome: Outcome) -> str:
    return {"noise": "deviation", "corruptions": "severity"}.get(outcome.threat, "eps")
