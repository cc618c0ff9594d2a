"""What was found of runs under one threat, and what all sections show of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.figures import band, figure, line
from timestepper.report.html.measurements import (
    Scores,
    is_older,
    missing_runs,
    read_scores,
    robustness_command,
)
from timestepper.report.html.parts import MISSING, Missing, Part, Plot, Text


@dataclass(frozen=True)
class Found:
    """What was found of runs under one threat.

    Attributes:
        scores: by the runs' names.
        broken: what can't be read.
        missing: runs of which there is nothing.
    """

    scores: Mapping[str, Scores]
    broken: Sequence[Missing]
    missing: Sequence[Evidence]


def find(runs: Sequence[Evidence], threat: str) -> Found:
    """Read what was measured on runs under a threat."""
    folders = [run.run.folder for run in runs]
    read = {run.name: read_scores(run, threat, folders) for run in runs}
    absent = {name: one for name, one in read.items() if isinstance(one, Missing)}
    return Found(
        {name: one for name, one in read.items() if isinstance(one, Scores)},
        [one for one in absent.values() if one.why != MISSING],
        [run for run in runs if run.name in absent and absent[run.name].why == MISSING],
    )


def remarks(runs: Sequence[Evidence], threat: str, scores: Mapping[str, Scores]) -> list[Part]:
    """Say what was measured, of which runs where not all in the same way, and what is old."""
    described: dict[str, list[str]] = {}
    for name, one in scores.items():
        described.setdefault(one.description, []).append(name)
    parts: list[Part] = [
        Text(text if len(described) == 1 else f"{', '.join(of)}: {text}")
        for text, of in described.items()
        if text
    ]
    if best := [name for name, one in scores.items() if one.is_best]:
        parts.append(Text(f"Of {', '.join(best)} the best checkpoint was measured, not the last."))
    for run in runs:
        if run.name in scores and is_older(run, scores[run.name].path):
            again = robustness_command([threat], [run])
            parts.append(
                Text(
                    f"That of {run.name} was measured before the last checkpoint was written; to "
                    f"measure that, run {again} --force"
                )
            )
    return parts


def missing(runs: Sequence[Evidence], threat: str, found: Found) -> list[Part]:
    """Say what is broken, and what was not measured."""
    parts: list[Part] = [*found.broken]
    if found.missing:
        command = robustness_command([threat], found.missing)
        parts.append(missing_runs(found.missing, len(runs), command))
    return parts


def curves(
    scores: Mapping[str, Scores],
    x: str,
    *,
    named: bool,
    scale: float = 1,
    banded: bool = False,
    of: str = "",
    caption: str = "",
) -> list[Plot]:
    """Draw accuracy and loss, means over the cases, against the level.

    Args:
        scores: by the runs' names.
        x: title of the horizontal axis.
        named: whether there is a legend.
        scale: factor of the levels.
        banded: whether a band goes from the least of the cases to the most.
        of: what the plots' titles begin with.
        caption: what stands below each.
    """
    plots = []
    for title, factor, quantity in (
        ("accuracy (%)", 100, "accuracy"),
        ("cross-entropy", 1, "loss"),
    ):
        traces = []
        for number, (name, one) in enumerate(scores.items()):
            values = factor * getattr(one, quantity)
            levels = [scale * level for level in one.levels]
            own = [line(levels, values.mean(0).tolist(), name, number)]
            if banded and len(values) > 1:
                own += band(levels, values.min(0).tolist(), values.max(0).tolist(), "", number)
            for trace in own:
                trace.update(legendgroup=name)
            traces += own
        drawn = figure(traces, x)
        drawn.update_layout(showlegend=named)
        plots.append(Plot(drawn, 300, of + title, caption))
    return plots
