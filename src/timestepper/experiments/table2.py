"""Table 2: the controllers on ResNet-50."""

from __future__ import annotations

from collections.abc import Sequence

from timestepper.experiments.count_columns import COLUMNS, NOTES, Paper, compare, compare_stepped
from timestepper.experiments.method_comparison import compare as compare_methods
from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.counting import count_stepped

NETWORK = "resnet50_v1"

PLAIN = Paper(25.56, 3.86)
ERRORS = {"plain": 24.42, "tsc-indp": 24.12, "tsc-2fc": 23.90, "tsc-lstm": 23.63}
"""Top-1 errors of the paper's own runs on ImageNet, in percent, by method."""

STEPPED = {
    "TSC_indp": ("indp", Paper(25.57, 3.86), Paper(25.57, 3.86)),
    "TSC_2fc": ("2fc", Paper(31.58, 3.88), Paper(25.57, 3.86)),
    "TSC_LSTM": ("lstm", Paper(27.83, 3.89), Paper(25.57, 3.86)),
}


def count() -> ResultTable:
    """Count parameters and operations of every row."""
    rows: list[tuple[Cell, ...]] = []
    for label, (controller, training, inference) in STEPPED.items():
        counted = count_stepped(NETWORK, controller)
        if not rows:
            rows.append(compare("none", "plain", counted.plain, PLAIN))
        rows += compare_stepped(label, counted, training, inference)
    return ResultTable(
        "Table 2: ResNet-50, parameters and multiply-accumulates",
        (Column("controller", "controller", text=True), *COLUMNS),
        rows,
        (
            *NOTES,
            f"ResNet-50 is {NETWORK} of `timestepper.networks.create`: the original, with the "
            "stride in the first 1×1 convolution, as in the paper.",
            "TSC_2fc: the formula of the paper's Table 1 gives what is counted here but for "
            "biases; the 31.58 M of its Table 2 does not follow from it.",
        ),
    )


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Compare the methods, beside the paper's errors of ResNet-50 on ImageNet."""
    paper = {(network, method): e for network in scale.networks for method, e in ERRORS.items()}
    return compare_methods(
        "Table 2: the controllers on one network",
        scale,
        planned,
        outcomes,
        paper,
        ["The paper's errors are of ResNet-50 on ImageNet, whatever was trained here."],
    )
