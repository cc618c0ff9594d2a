"""The optimizer's step in channels_last on the CPU: ours beside torch's fused SGD.

Both take turns in one process, on copies of a network with the same gradients. It prints medians
over rounds of the ratios within a round; ``--output`` writes them as CSV with what made them.

    python benchmarks/optimizer_step.py --output results/optimizer_step.csv
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from timestepper import networks
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.alternating import alternate
from timestepper.training.memory import keep_memory
from timestepper.training.optimizer import ChannelsLastSGD

NETWORKS = ("cifar_resnet56", "torchvision/resnet18", "torchvision/resnet50")
COLUMNS = (
    Column("network", "network", text=True),
    Column("parameters", "parameters"),
    Column("torch_ms", "torch's (ms)", decimals=1),
    Column("ratio", "ours over torch's"),
)


def make_optimizer(network: nn.Module, kind: type[torch.optim.SGD]) -> torch.optim.SGD:
    """Make one with the settings of the recipes, over a network that has gradients."""
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 1e-6)
    return kind(
        network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4, fused=True
    )


def measure(name: str, rounds: int) -> tuple[Cell, ...]:
    """Time one network's steps; return the row."""
    network = networks.create(name).to(memory_format=torch.channels_last)
    sides = {
        "torch": make_optimizer(copy.deepcopy(network), torch.optim.SGD).step,
        "ours": make_optimizer(copy.deepcopy(network), ChannelsLastSGD).step,
    }
    found = alternate(sides, rounds)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return name, parameters, 1e3 * found.median("torch"), found.ratio("ours", "torch")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    keep_memory()
    made_by = provenance()
    rows = [measure(name, options.rounds) for name in NETWORKS]
    table = ResultTable("a step of SGD, channels_last, medians", COLUMNS, rows, ())
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())


if __name__ == "__main__":
    main()
