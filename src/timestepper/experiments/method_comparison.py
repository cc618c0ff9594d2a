"""Methods beside each other: what each came to, and how it differs from the plain network."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from timestepper.experiments.outcomes import Outcome
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.study import Scale, read_methods, read_protocols
from timestepper.report import plot_intervals
from timestepper.report.bands import Interval
from timestepper.report.result_figure import ResultFigure
from timestepper.report.result_table import Cell, Column, ResultTable
from timestepper.report.statistics import Difference, Estimate, difference, estimate

BASELINE = "plain"

STATISTICS = (
    "n: seeds. ±: half of the 95 % interval of a mean over seeds (Student's t). Differences are "
    "taken seed by seed; p is of the two-sided paired t-test, not corrected for the number of "
    "rows. An interval that holds zero is no difference that so few seeds can show. Where all "
    "seeds have the same value there is no spread to make an interval or p of."
)

COLUMNS = (
    Column("network", "network", text=True),
    Column("method", "method", text=True),
    Column("seeds", "n"),
    Column("error_percent", "error\n(%)", decimals=2),
    Column("error_interval", "±", decimals=2, plus_minus=True),
    Column("loss", "loss"),
    Column("loss_interval", "±", plus_minus=True),
    Column("error_difference", "error −\nplain", signed=True, decimals=2),
    Column("error_difference_interval", "±", decimals=2, plus_minus=True),
    Column("p", "p", is_p=True),
)

PAPER_COLUMNS = (
    Column("paper_error_percent", "paper\n(%)", decimals=2),
    Column("paper_error_difference", "paper −\nplain", signed=True, decimals=2),
)


@dataclass(frozen=True)
class Group:
    """A network under a protocol, by every method.

    Attributes:
        protocol: name of the recipe.
        network: label of the network.
        title: what it is called among all groups.
        outcomes: by method, in the study's order; one for each seed that is done.
    """

    protocol: str
    network: str
    title: str
    outcomes: dict[str, list[Outcome]]

    def difference(
        self,
        method: str,
        value: Callable[[Outcome], float] = lambda outcome: outcome.error,
        baseline: str = BASELINE,
    ) -> Difference | None:
        """Compare a method with another one, for the seeds that both have.

        Args:
            method: name of the method.
            value: what is compared; by default the test error in percent.
            baseline: name of the other one; by default the plain network.

        Returns:
            The method's values minus the other one's; None for the other one itself, and where no
            seed has both.
        """
        own = {o.planned.seed: value(o) for o in self.outcomes[method]}
        others = {o.planned.seed: value(o) for o in self.outcomes.get(baseline, ())}
        seeds = [seed for seed in own if seed in others]
        if method == baseline or not seeds:
            return None
        return difference([own[s] for s in seeds], [others[s] for s in seeds])


def group(scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]) -> list[Group]:
    """Sort outcomes by protocol, network and method, all that were planned."""
    methods = list(dict.fromkeys(each.method for each in planned))
    protocols = read_protocols()
    groups = []
    for protocol in scale.protocols:
        for network in scale.networks:
            title = (
                network if len(scale.protocols) == 1 else f"{protocols[protocol].label}: {network}"
            )
            here = [
                o
                for o in outcomes
                if (o.planned.protocol, o.planned.network) == (protocol, network)
            ]
            by_method = {m: [o for o in here if o.planned.method == m] for m in methods}
            groups.append(Group(protocol, network, title, by_method))
    return groups


def notes(scale: Scale, planned: Sequence[PlannedRun], outcomes: Sequence[Outcome]) -> list[str]:
    """Say what was trained, by what code, and what is missing."""
    labels = read_methods()
    protocols = read_protocols()
    what = "; ".join(f"{protocols[name].label} (recipe {name})" for name in scale.protocols)
    networks = ", ".join(f"{label} is {name}" for label, name in scale.networks.items())
    commits = dict.fromkeys(commit for outcome in outcomes for commit in outcome.commits)
    hardware = dict.fromkeys(machine for outcome in outcomes for machine in outcome.hardware)
    precisions = dict.fromkeys(each.configuration.precision for each in planned)
    said = [
        f"Trained on {what}; precision {', '.join(precisions)}. Networks: {networks}. Errors and "
        "losses are those of the test images after the last epoch, unless a column says otherwise.",
        f"Trained by the code of {', '.join(commits)}, on {'; '.join(hardware)}."
        if outcomes
        else "Nothing was trained.",
    ]
    done = {outcome.planned.name for outcome in outcomes}
    missing: dict[str, list[int]] = {}
    for each in planned:
        if each.name not in done:
            name = (
                f"{labels[each.method].label} of {each.network} ({protocols[each.protocol].label})"
            )
            missing.setdefault(name, []).append(each.seed)
    if missing:
        listed = ", ".join(
            f"{name}, seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
            for name, seeds in missing.items()
        )
        said.append(f"Failed, and therefore left out: {listed}.")
    return said


def compare(
    title: str,
    scale: Scale,
    planned: Sequence[PlannedRun],
    outcomes: Sequence[Outcome],
    paper: Mapping[tuple[str, str], float] | None = None,
    more_notes: Sequence[str] = (),
) -> ResultFigure:
    """Tabulate errors and losses by method, and draw the differences from the plain network.

    Args:
        title: of the table.
        scale: what was planned.
        planned: all trainings.
        outcomes: of those that are done.
        paper: the paper's error in percent by label of the network and name of the method.
        more_notes: what else there is to say.
    """
    labels = read_methods()
    rows: list[tuple[Cell, ...]] = []
    drawn: dict[str, dict[str, Interval]] = {}
    for each in group(scale, planned, outcomes):
        differences = drawn.setdefault(each.title, {})
        for method, of_method in each.outcomes.items():
            compared = each.difference(method)
            if compared is not None:
                found = compared.estimate
                differences[labels[method].label] = (found.mean, found.low, found.high)
            row = (each.title, labels[method].label, *_cells(of_method, compared))
            more = () if paper is None else _paper_cells(paper, each.network, method)
            rows.append((*row, *more))
    columns = COLUMNS if paper is None else (*COLUMNS, *PAPER_COLUMNS)
    table = ResultTable(
        title, columns, rows, (*notes(scale, planned, outcomes), STATISTICS, *more_notes)
    )
    x_label = "test error − that of the plain network (percentage points), 95 % interval"
    return ResultFigure(plot_intervals(drawn, x_label), table)


def half_width(found: Estimate) -> float:
    """Return half of an estimate's interval."""
    return (found.high - found.low) / 2


def difference_cells(compared: Difference | None) -> tuple[float, float, float]:
    """Return the cells of a mean difference, half of its interval, and p."""
    if compared is None:
        return (math.nan,) * 3
    return compared.estimate.mean, half_width(compared.estimate), compared.p


def _cells(outcomes: Sequence[Outcome], compared: Difference | None) -> tuple[Cell, ...]:
    if not outcomes:
        return (0, *[math.nan] * 7)
    error, loss = estimate([o.error for o in outcomes]), estimate([o.loss for o in outcomes])
    return (
        *(len(outcomes), error.mean, half_width(error), loss.mean, half_width(loss)),
        *difference_cells(compared),
    )


def _paper_cells(
    paper: Mapping[tuple[str, str], float], network: str, method: str
) -> tuple[float, float]:
    error = paper.get((network, method), math.nan)
    plain = paper.get((network, BASELINE), math.nan)
    return error, error - plain if method != BASELINE else math.nan


RUN_COLUMNS = (
    Column("protocol", "protocol", text=True),
    Column("network", "network", text=True),
    Column("method", "method", text=True),
    Column("seed", "seed"),
    Column("error_percent", "error (%)", decimals=2),
    Column("loss", "loss"),
    Column("train_error_percent", "train error (%)", decimals=2),
    Column("commit", "commit", text=True),
)


def runs_table(scale: Scale, outcomes: Sequence[Outcome]) -> ResultTable:
    """Tabulate every training by itself: what it scored after its last epoch, and under noise."""
    deviations = scale.noise.deviations if scale.noise else ()
    noisy = [
        Column(f"{quantity}_at_noise_{deviation:g}", "", decimals=2)
        for quantity in ("error_percent", "loss")
        for deviation in deviations
    ]
    rows: list[tuple[Cell, ...]] = []
    for o in outcomes:
        columns = range(len(deviations))
        rows.append(
            (
                *(o.planned.protocol, o.planned.configuration.network.name, o.planned.method),
                *(o.planned.seed, o.error, o.loss, 100 * (1 - o.history[-1]["train_accuracy"])),
                " then ".join(o.commits),
                *(100 - o.accuracy_under_noise(column) for column in columns),
                *(o.loss_under_noise(column) for column in columns),
            )
        )
    return ResultTable("Trainings", (*RUN_COLUMNS, *noisy), rows, ())
