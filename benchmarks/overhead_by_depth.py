"""What step sizes add to a training step, block by block, for networks of any depth.

The added time does not depend on the batch, so that batches are small here: then it is a large part
of a step, and measured well. Plain and attached networks take turns in one process. It prints
medians over rounds of the differences within a round; ``--output`` writes them as CSV with what
made them, and a figure beside it.

    python benchmarks/overhead_by_depth.py --output results/overhead_by_depth.csv
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib.figure import Figure
from overhead import make_step
from rich.console import Console

import timestepper
from timestepper import networks
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.speed.alternating import alternate
from timestepper.training.memory import keep_memory

DEPTHS = (20, 32, 56, 110, 200, 290, 506)
CONTROLLERS = ("lstm", "lstm+")
IMAGES = (2, 3, 32, 32)
BUILDS = 3
COLUMNS = (
    Column("network", "network", text=True),
    Column("blocks", "blocks"),
    Column("plain_ms", "plain (ms)", decimals=1),
    *(Column(f"added_ms_{name}", f"{name}\nadded (ms)", decimals=2) for name in CONTROLLERS),
    *(Column(f"us_per_block_{name}", f"{name}\nµs/block", decimals=0) for name in CONTROLLERS),
)


def measure(depth: int, rounds: int) -> tuple[Cell, ...]:
    """Time a network of one depth; return its row."""
    name = f"cifar_resnet{depth}"
    images = torch.randn(IMAGES)
    plain_seconds: list[float] = []
    added: dict[str, list[float]] = {controller: [] for controller in CONTROLLERS}
    for _ in range(BUILDS):
        plain = networks.create(name)
        sides = {c: timestepper.attach(copy.deepcopy(plain), c) for c in CONTROLLERS}
        sides["plain"] = plain
        steps = {
            side: make_step(network.train(), images, bfloat16=False, captured=False)
            for side, network in sides.items()
        }
        seconds = alternate(steps, rounds).seconds
        plain_seconds += seconds["plain"]
        for controller, values in added.items():
            pairs = zip(seconds[controller], seconds["plain"], strict=True)
            values += [with_steps - without for with_steps, without in pairs]
    blocks = len(timestepper.step_sizes(sides[CONTROLLERS[0]]))
    medians = [statistics.median(values) for values in added.values()]
    return (
        name,
        blocks,
        1e3 * statistics.median(plain_seconds),
        *(1e3 * median for median in medians),
        *(1e6 * median / blocks for median in medians),
    )


def draw(rows: Sequence[tuple[Cell, ...]]) -> Figure:
    """Draw the added time of a block against the number of blocks."""
    figure = Figure(figsize=(6, 3.6), layout="constrained")
    axes = figure.subplots()
    for column, controller, marker in zip((5, 6), CONTROLLERS, "os", strict=True):
        axes.plot(
            [row[1] for row in rows], [row[column] for row in rows], marker=marker, label=controller
        )
    axes.set(
        xscale="log",
        ylim=(0, None),
        xlabel="residual blocks",
        ylabel="added time per block (µs)",
        title="What step sizes add to a training step",
    )
    ticks = [row[1] for row in rows]
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(title="controller")
    return figure


def main() -> None:
    """Measure every depth, print the table and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", nargs="+", type=int, default=list(DEPTHS))
    parser.add_argument("--rounds", type=int, default=15, help="for each build of the networks")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    keep_memory()
    made_by = provenance()
    rows = [measure(depth, options.rounds) for depth in options.depths]
    title = "added by step sizes to a training step, batches of 2, float32"
    table = ResultTable(title, COLUMNS, rows, ())
    Console().print(table.to_rich())
    if options.output:
        write_atomically(options.output, table.to_csv(made_by).encode())
        draw(rows).savefig(options.output.with_suffix(".png"), dpi=150)


if __name__ == "__main__":
    main()
