"""Table 2: the controllers on ResNet-50."""

from __future__ import annotations

from timestepper.errors import ConfigurationError
from timestepper.experiments.comparison import COLUMNS, NOTES, Paper, compare, compare_stepped
from timestepper.experiments.counting import count_stepped
from timestepper.experiments.result_table import Cell, Column, ResultTable

NETWORK = "resnet50_v1"

PLAIN = Paper(25.56, 3.86)
STEPPED = {
    "TSC_indp": ("indp", Paper(25.57, 3.86), Paper(25.57, 3.86)),
    "TSC_2fc": ("2fc", Paper(31.58, 3.88), Paper(25.57, 3.86)),
    "TSC_LSTM": ("lstm", Paper(27.83, 3.89), Paper(25.57, 3.86)),
}


def reproduce(*, counts: bool) -> ResultTable:
    """Count every row of the table.

    Raises:
        ConfigurationError: the table was asked for with its accuracies.
    """
    if not counts:
        raise ConfigurationError(
            "so far only the counts of table2 can be made, not its accuracies; add --counts"
        )
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
