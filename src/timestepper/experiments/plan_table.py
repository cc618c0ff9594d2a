"""A plan for people: what is done, what is to do, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from timestepper.experiments.cost import Estimator
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import read_methods


def plan_table(planned: Sequence[PlannedRun], estimator: Estimator | None) -> Table:
    """Tabulate trainings, a row for each network and method.

    Args:
        planned: the trainings.
        estimator: says how long the rest takes; None where that is not known.

    Raises:
        TimestepperError: data is missing, or a training is impossible.
    """
    labels = read_methods()
    rows: dict[tuple[str, str, str], list[PlannedRun]] = {}
    for each in planned:
        rows.setdefault((each.protocol, each.network, each.method), []).append(each)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for heading in ("protocol", "network", "method"):
        table.add_column(heading)
    for heading in ("epochs", "runs", "done", "started"):
        table.add_column(heading, justify="right")
    if estimator is not None:
        table.add_column("minutes\nto do", justify="right")
    for (protocol, network, method), runs in rows.items():
        states = [each.state for each in runs]
        table.add_row(
            protocol,
            network,
            labels[method].label,
            str(runs[0].configuration.epochs),
            str(len(runs)),
            str(states.count("done")),
            str(len(runs) - states.count("done") - states.count("new")),
            *([] if estimator is None else [f"{sum(map(estimator.remaining, runs)) / 60:.1f}"]),
        )
    return table
