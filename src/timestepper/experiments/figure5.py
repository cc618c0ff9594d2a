"""Figure 5: accuracy against depth."""

from __future__ import annotations

from collections.abc import Sequence

from timestepper.errors import ConfigurationError
from timestepper.experiments.method_comparison import compare, group
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale, read_methods, read_protocols
from timestepper.report import Panel, plot_bands
from timestepper.report.bands import Interval
from timestepper.report.result_figure import ResultFigure
from timestepper.report.statistics import estimate

NOTES = (
    "The paper's figure has no numbers; its text says that plain networks reach a plateau and then "
    "drop, and that time-stepped ones go on gaining slowly.",
)


def check(scale: Scale) -> None:
    """Refuse what can't be presented.

    Raises:
        ConfigurationError: a network's label is not its depth.
    """
    if not all(label.isdecimal() for label in scale.networks):
        raise ConfigurationError("the networks of figure5 must be labelled by their depths")


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Draw accuracy against depth; networks are labelled by their depth."""
    labels, protocols = read_methods(), read_protocols()
    depths = [int(network) for network in scale.networks]
    panels = []
    groups = group(scale, planned, outcomes)
    for protocol in scale.protocols:
        curves: dict[str, dict[float, Interval]] = {}
        for each in groups:
            for method, of_method in each.outcomes.items():
                if each.protocol == protocol and of_method:
                    found = estimate([100 - outcome.error for outcome in of_method])
                    curve = curves.setdefault(labels[method].label, {})
                    curve[int(each.network)] = (found.mean, found.low, found.high)
        panels.append(
            Panel(
                protocols[protocol].label, "layers", "test accuracy (%)", curves, depths, (0, 100)
            )
        )
    table = compare(
        "Figure 5: accuracy against depth", scale, planned, outcomes, more_notes=NOTES
    ).table
    return ResultFigure(plot_bands(panels), table)
