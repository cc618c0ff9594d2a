"""Table 3: families and depths, plain and with TSC_LSTM."""

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

# The network; the paper's plain network, and with TSC_LSTM in training and in inference.
NETWORKS = {
    "ResNet-18": ("resnet18", Paper(11.69, 1.81), Paper(13.52, 1.81), Paper(11.69, 1.81)),
    "ResNet-34": ("resnet34", Paper(21.80, 3.66), Paper(23.63, 3.66), Paper(21.80, 3.66)),
    "ResNet-50": ("resnet50_v1", Paper(25.56, 3.86), Paper(27.83, 3.89), Paper(25.57, 3.86)),
    "ResNet-101": ("resnet101_v1", Paper(44.55, 7.58), Paper(46.82, 7.64), Paper(44.58, 7.58)),
    "ResNeXt-50": (
        "resnext50_32x4d_v1",
        *(Paper(25.03, 3.77), Paper(27.30, 3.80), Paper(25.04, 3.77)),
    ),
    "ResNeXt-101": (
        "resnext101_32x4d_v1",
        *(Paper(44.18, 7.51), Paper(46.45, 7.57), Paper(44.21, 7.51)),
    ),
    "SENet-50": ("seresnet50_v1", Paper(28.09, 3.87), Paper(30.36, 3.90), Paper(28.10, 3.87)),
    "SENet-101": ("seresnet101_v1", Paper(49.33, 7.60), Paper(51.60, 7.66), Paper(49.36, 7.60)),
}

ERRORS = {
    "ResNet-18": (29.41, 28.80),
    "ResNet-34": (26.03, 25.39),
    "ResNet-50": (24.42, 23.63),
    "ResNet-101": (22.94, 22.24),
    "ResNeXt-50": (22.84, 22.23),
    "ResNeXt-101": (21.88, 21.17),
    "SENet-50": (23.27, 22.75),
    "SENet-101": (22.37, 21.82),
}
"""Top-1 errors of the paper's own runs on ImageNet, in percent: plain, and with TSC_LSTM."""

# What W_in, with C/8 rows, has less for each stage where w̄ is C/4 + C long and not C/2 + C.
FEWER_IN_RESNEXT = sum(channels // 8 * channels // 4 for channels in (256, 512, 1024, 2048))


def count() -> ResultTable:
    """Count parameters and operations of every row."""
    rows: list[tuple[Cell, ...]] = []
    narrow: list[str] = []
    for label, (name, plain, training, inference) in NETWORKS.items():
        counted = count_stepped(name, "lstm")
        rows.append(compare(label, "plain", counted.plain, plain))
        rows += compare_stepped(label, counted, training, inference)
        if label.startswith("ResNeXt"):
            millions = (counted.training.parameters - FEWER_IN_RESNEXT) / 1e6
            narrow.append(f"{label} {millions:.3f} M")
    built = ", ".join(f"{label} is {name}" for label, (name, *_) in NETWORKS.items())
    return ResultTable(
        "Table 3: families, parameters and multiply-accumulates",
        (Column("network", "network", text=True), *COLUMNS),
        rows,
        (
            *NOTES,
            f"Networks of `timestepper.networks.create`: {built}. Bottlenecks are the original "
            "ones, with the stride in the first 1×1 convolution, as in the paper.",
            "ResNeXt: the first convolution of a bottleneck has C/2 channels, so that w̄ is in "
            "R^{C/2 + C}. Were it in R^{C/4 + C}, as in a ResNet, there would be in training: "
            f"{', '.join(narrow)}: the paper's numbers.",
        ),
    )


def present(
    scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]
) -> ResultFigure:
    """Compare plain and time-stepped networks, beside the paper's errors on ImageNet."""
    methods = ("plain", "tsc-lstm")
    paper = {
        (network, method): error
        for network, errors in ERRORS.items()
        for method, error in zip(methods, errors, strict=True)
    }
    return compare_methods(
        "Table 3: families and depths",
        scale,
        planned,
        outcomes,
        paper,
        ["The paper's errors are those on ImageNet, whatever was trained on here."],
    )
