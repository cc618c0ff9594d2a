"""Table 1: parameters that each controller adds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from torch import nn

from timestepper.controllers import Controller
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.counting import build_shapes, parameters
from timestepper.stepping import fold

NETWORKS = {
    "ResNet-56": "cifar_resnet56",
    "ResNet-18": "resnet18",
    "ResNet-34": "resnet34",
    "ResNet-50": "resnet50_v1",
    "ResNet-101": "resnet101_v1",
}


@dataclass(frozen=True, slots=True)
class Stage:
    """The quantities of the paper's formulas, for one stage.

    Attributes:
        blocks: L_b.
        channels: C_b.
        reduction: r.
        kernels: k1k2, read as the length of w̄ over C_b.
    """

    blocks: int
    channels: int
    reduction: Fraction
    kernels: Fraction


FORMULAS: dict[str, tuple[str, Callable[[Stage], int | Fraction]]] = {
    "TSC_indp": ("indp", lambda b: b.blocks * b.channels),
    "TSC_2fc": ("2fc", lambda b: b.blocks * b.channels**2 / b.reduction * (1 + b.kernels)),
    "TSC_LSTM": (
        "lstm",
        lambda b: b.channels**2 / b.reduction * (1 + 8 / b.reduction + b.kernels),
    ),
}

COLUMNS = (
    Column("network", "network", text=True),
    Column("controller", "controller", text=True),
    Column("train_formula", "train:\nformula"),
    Column("train_built", "train:\nas built"),
    Column("train_difference", "built −\nformula", signed=True),
    Column("infer_formula", "infer:\nformula"),
    Column("infer_folded", "infer:\nfolded"),
)

NOTES = (
    "Formulas, over stages b of L_b blocks with C_b channels: TSC_indp Σ L_b C_b; "
    "TSC_2fc Σ L_b C_b²/r (1 + k1k2); TSC_LSTM Σ C_b²/r (1 + 8/r + k1k2); for inference Σ L_b C_b "
    "step sizes, which folding does not keep.",
    "k1k2 is read as the length of w̄ over C_b: 18 for the two 3×3 convolutions of a basic block "
    "(w̄ ∈ R^{2·9·C}), 1.25 for the two 1×1 convolutions of a bottleneck (w̄ ∈ R^{C/4 + C}). r is 4, "
    "for bottlenecks 8.",
    "The difference is the biases, which the formulas leave out: C_b/r + C_b for each block in "
    "TSC_2fc, 5 C_b/r + C_b for each stage in TSC_LSTM.",
    "Networks: " + ", ".join(f"{label} is {name}" for label, name in NETWORKS.items()) + ".",
)


def calculate() -> ResultTable:
    """Evaluate the paper's formulas beside what is built."""
    rows: list[tuple[Cell, ...]] = []
    for label, name in NETWORKS.items():
        plain = parameters(build_shapes(name))
        for title, (controller, formula) in FORMULAS.items():
            network = build_shapes(name, controller)
            stages = [_stage(module) for module in network.time_stepping.children()]  # type: ignore[union-attr]
            by_formula = int(sum(formula(stage) for stage in stages))
            built = parameters(network) - plain
            kept = sum(stage.blocks * stage.channels for stage in stages)
            folded = parameters(fold(network)) - plain
            rows.append((label, title, by_formula, built, built - by_formula, kept, folded))
    return ResultTable("Table 1: parameters that the controllers add", COLUMNS, rows, NOTES)


def _stage(controller: nn.Module) -> Stage:
    assert isinstance(controller, Controller)
    return Stage(
        controller.depth,
        controller.channels,
        Fraction(controller.channels, controller.hidden),
        Fraction(controller.features, controller.channels),
    )
