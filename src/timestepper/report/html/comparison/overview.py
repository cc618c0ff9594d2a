"""Which runs are compared, and what came of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

from timestepper.report.html import names
from timestepper.report.html.costs import Costs
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.groups import Method
from timestepper.report.html.parts import MISSING, Missing, Part, Section, Table, Text
from timestepper.report.html.sections.cost import WHAT
from timestepper.report.html.sections.evolution import evolution_times
from timestepper.report.html.sections.summary import images, network, training_seconds


def overview(methods: Sequence[Method], counted: Mapping[str, Costs | Missing]) -> Section:
    """Tabulate the runs.

    Args:
        methods: all runs.
        counted: what each method's network costs, by the methods' labels.
    """
    runs = [run for method in methods for run in method.runs]
    parts: list[Part] = []
    if note := different_images(runs):
        parts.append(Text(note))
    else:
        parts.append(
            Text(f"All runs are on {images(runs[0])}, evaluated on {runs[0].split} images.")
        )
    parts.append(
        Table(
            ("run", "method", "seed", "epochs", "accuracy", "loss", "T", "trained for"),
            [_row(run, method) for method in methods for run in method.runs],
            text_columns=2,
            caption="Accuracy and loss after the last epoch that is done; T: evolution time of "
            "all stages together, which a plain network does not have; times are without "
            "evaluation.",
        )
    )
    parts.append(_costs(methods, counted))
    return Section("overview", "Runs", parts)


def different_images(runs: Sequence[Evidence]) -> str:
    """Say that runs are on different images, empty where they are not."""
    # Each with each: an older run says less of its images, and may go with two that differ.
    if all(one.is_on_images_of(other) for one, other in combinations(runs, 2)):
        return ""
    kinds = dict.fromkeys(f"{images(run)}, evaluated on {run.split} images" for run in runs)
    which = "; ".join(kinds) if len(kinds) > 1 else f"{next(iter(kinds))}, but not the same ones"
    return (
        f"These runs are on different images ({which}). Their curves are shown together; that one "
        "is higher than another says nothing about methods, and no differences are computed."
    )


def _row(run: Evidence, method: Method) -> list[str]:
    last = run.history[-1]
    times = evolution_times(run)
    return [
        run.name,
        method.label,
        str(run.configuration.seed),
        f"{run.epochs} of {run.configuration.epochs}",
        names.percent(last[f"{run.split}_accuracy"]),
        f"{last[f'{run.split}_loss']:.4f}",
        f"{sum(curve[-1] for curve in times.values()):.3f}" if times else "—",
        names.duration(training_seconds(run)),
    ]


def _costs(methods: Sequence[Method], counted: Mapping[str, Costs | Missing]) -> Table:
    rows = []
    reasons = []
    for method in methods:
        run = method.runs[0]
        found = counted[method.label]
        if isinstance(found, Missing):
            numbers = [MISSING] * 4
            reasons.append(found.why)
        else:
            forms = found.training, found.inference
            numbers = [f"{form.parameters:,}" for form in forms]
            numbers += [names.count(form.operations) for form in forms]
        rows.append([method.label, network(run), *numbers])
    shapes = {tuple(run.data["shape"][1:]) for method in methods for run in method.runs}
    caption = WHAT.format(
        **dict(zip(("height", "width"), shapes.pop(), strict=True))
        if len(shapes) == 1
        else {"height": "H", "width": "W"}
    )
    return Table(
        (
            *("method", "network", "parameters, training", "inference"),
            *("operations, training", "inference"),
        ),
        rows,
        text_columns=2,
        caption="".join(f"{reason}. " for reason in dict.fromkeys(reasons)) + caption,
    )
