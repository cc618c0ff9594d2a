"""Table 4: the step sizes that a controller learns, block by block and epoch by epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from timestepper.experiments.method_comparison import STATISTICS, group, half_width, notes
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale, read_methods
from timestepper.report import Panel, plot_bands
from timestepper.report.bands import Interval
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.statistics import estimate
from timestepper.training.step_history import read_step_history

PAPER = {
    "ResNet-50": (0.510, 0.500, 0.731, 0.835, 0.901, 0.926),
    "ResNet-101": (0.508, 0.513, 0.657, 0.854, 0.927, 0.950),
}
BLOCKS = ("layer2.0", "layer3.0", "layer3.1", "layer4.0", "layer4.1", "layer4.2")
"""The blocks of the paper's columns: C-3_1, C-4_1, C-4_2, C-5_1, C-5_2, C-5_3."""

COLUMNS = (
    Column("network", "network", text=True),
    Column("block", "block", text=True),
    Column("first_step_size", "Δt at\nthe start"),
    Column("step_size", "Δt at\nthe end"),
    Column("step_size_interval", "±", plus_minus=True),
    Column("deviation_over_channels", "std over\nchannels"),
    Column("paper_step_size", "paper"),
    Column("seeds", "n"),
)

NOTES = (
    "Δt: mean over the channels of a block. The paper's numbers are of ResNet-50 and ResNet-101 on "
    "ImageNet, and of six of their blocks.",
    "Drawn: the first, a middle and the last block of each stage.",
)


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Tabulate the step sizes at the end, and draw how they moved."""
    labels = read_methods()
    rows: list[tuple[Cell, ...]] = []
    panels = []
    for each in group(scale, planned, outcomes):
        for method, of_method in each.outcomes.items():
            title = (
                each.title if len(each.outcomes) == 1 else f"{each.title}, {labels[method].label}"
            )
            histories = [read_step_history(o.planned.run.step_history) for o in of_method]
            names = list(histories[0]) if histories else []
            curves: dict[str, dict[float, Interval]] = {}
            for name in names:
                means = [history[name].double().mean(1) for history in histories]
                moved = [estimate([m[e].item() for m in means]) for e in range(len(means[0]))]
                spread = [h[name][-1].double().std(correction=0).item() for h in histories]
                rows.append(
                    (
                        *(title, name, moved[0].mean, moved[-1].mean, half_width(moved[-1])),
                        *(estimate(spread).mean, _paper(each.network, name), len(histories)),
                    )
                )
                if name in _shown(names):
                    curves[name] = {e: (m.mean, m.low, m.high) for e, m in enumerate(moved)}
            panels.append(Panel(title, "epoch", "mean step size Δt", curves, bounds=(0, 1)))
    table = ResultTable(
        "Table 4: learned step sizes",
        COLUMNS,
        rows,
        (*notes(scale, planned, outcomes), STATISTICS, *NOTES),
    )
    return ResultFigure(plot_bands(panels), table)


def _paper(network: str, block: str) -> float:
    values = dict(zip(BLOCKS, PAPER.get(network, ()), strict=False))
    return values.get(block, math.nan)


def _shown(names: Sequence[str]) -> set[str]:
    """Choose the first, a middle and the last block of each stage."""
    stages: dict[str, list[str]] = {}
    for name in names:
        stages.setdefault(re.sub(r"\.\d+$", "", name), []).append(name)
    return {s[i] for s in stages.values() for i in (0, len(s) // 2, -1)}
