"""Accuracy and loss under common corruptions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import Scores
from timestepper.report.html.parts import MISSING, Missing, Plots, Section, Table
from timestepper.report.html.robustness.found import curves, find, missing, remarks
from timestepper.robustness import CommonCorruptions
from timestepper.robustness.corruptions import SMALLEST

NONE = "—"
SMALL = f"{MISSING}: common corruptions take images of {SMALLEST}×{SMALLEST} pixels or more"


def corruptions(runs: Sequence[Evidence]) -> Section:
    """Show what runs score on corrupted images, those of which it was measured."""
    threat, several = CommonCorruptions.name, len(runs) > 1
    found = find(runs, threat)
    parts = remarks(runs, threat, found.scores)
    if any(len(one.levels) > 1 for one in found.scores.values()):
        caption = "Mean of the corruptions."
        parts.append(Plots(curves(found.scores, "severity", named=several, caption=caption)))
    if found.scores:
        parts.append(_by_run(found.scores) if several else _by_severity(*found.scores.values()))
    large = [run for run in found.missing if min(run.data["shape"][1:]) >= SMALLEST]
    if len(large) < len(found.missing):
        parts.append(Missing(SMALL))
    return Section(
        threat, "Corruptions", parts + missing(runs, threat, replace(found, missing=large))
    )


def _by_severity(scores: Scores) -> Table:
    shares = 100 * scores.accuracy
    rows = [*zip(scores.cases, shares, strict=True), ("mean", shares.mean(0))]
    return Table(
        ("corruption", *(f"severity {level:g}" for level in scores.levels), "mean"),
        [[_shown(case), *map(_percent, own), _percent(own.mean())] for case, own in rows],
        caption="Accuracy (%).",
    )


def _by_run(scores: Mapping[str, Scores]) -> Table:
    means = {
        name: dict(zip(one.cases, 100 * one.accuracy.mean(1), strict=True))
        for name, one in scores.items()
    }
    cases = dict.fromkeys(case for own in means.values() for case in own)
    rows = [
        [_shown(case), *(_percent(own[case]) if case in own else NONE for own in means.values())]
        for case in cases
    ]
    if len({(one.cases, one.levels) for one in scores.values()}) == 1:
        rows.append(["mean", *(_percent(100 * one.accuracy.mean()) for one in scores.values())])
    return Table(("corruption", *scores), rows, caption="Accuracy (%), mean over the severities.")


def _shown(case: str) -> str:
    return case.replace("_", " ")


def _percent(share: float) -> str:
    return f"{share:.2f}"
