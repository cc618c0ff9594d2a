"""What controllers' step sizes depended on through trainings: channel, position or weights.

Reads runs that were trained with ``--stepping.explain true``, prints start and end of each stage in
the mean over runs of the same network and controller, and writes every epoch of every run.

    python benchmarks/controller_dependence.py RUN [RUN ...] --output FILE.csv
"""

from __future__ import annotations

import argparse
import csv
import io
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path

import controller_candidates  # noqa: F401  # So that its candidates' runs can be read.
from rich.console import Console
from rich.table import Table

from timestepper.errors import TimestepperError
from timestepper.files import write_atomically
from timestepper.provenance import provenance
from timestepper.training.explanations import read_explanations
from timestepper.training.run import Run

QUANTITIES = ("deviation", "channel", "position", "weights", "own", "earlier")
COLUMNS = ("network", "controller", "seed", "stage", "epoch", *QUANTITIES)

Row = dict[str, str | int | float]


def rows_of(run: Run) -> Iterator[Row]:
    """Give what a run has recorded, a row for each stage and epoch; epoch 0 is the start."""
    configuration = run.read_configuration()
    for epoch, stages in enumerate(read_explanations(run.explanation)):
        for stage, explanation in stages.items():
            yield {
                "network": configuration.network.name,
                "controller": str(configuration.stepping.controller),
                "seed": configuration.seed,
                "stage": stage,
                "epoch": epoch,
                **{name: getattr(explanation, name) for name in QUANTITIES},
            }


def tabulate(rows: list[Row]) -> Table:
    """Average each network's, controller's and stage's start and end over runs."""
    table = Table(title="what step sizes depend on")
    keys = ("network", "controller", "stage", "epoch")
    for heading in (*keys, "n", *QUANTITIES):
        table.add_column(heading)
    last: dict[tuple[str, str], int] = {}
    for row in rows:
        last[str(row["network"]), str(row["controller"])] = int(row["epoch"])
    groups: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row["epoch"] in (0, last[str(row["network"]), str(row["controller"])]):
            groups.setdefault(tuple(str(row[key]) for key in keys), []).append(row)
    for key, members in sorted(groups.items()):
        means = [statistics.mean(float(row[name]) for row in members) for name in QUANTITIES]
        table.add_row(*key, str(len(members)), *(f"{mean:.2g}" for mean in means))
    return table


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, help="CSV file to write")
    options = parser.parse_args()
    try:
        rows = [row for folder in options.runs for row in rows_of(Run(folder))]
    except TimestepperError as error:
        sys.exit(str(error))
    Console().print(tabulate(rows))
    if options.output:
        text = io.StringIO(newline="")
        text.writelines(f"# {line}\n" for line in provenance())
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(options.output, text.getvalue().encode())


if __name__ == "__main__":
    main()
