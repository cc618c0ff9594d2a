"""Accuracy and loss under adversarial attacks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import (
    ATTACKS,
    Scores,
    missing_runs,
    robustness_command,
)
from timestepper.report.html.parts import Part, Plots, Section, Table
from timestepper.report.html.robustness.found import curves, find, missing, remarks
from timestepper.report.robustness import GREY_LEVELS
from timestepper.robustness import FGSM, PGD

LABELS = dict(zip(ATTACKS, ("FGSM", "PGD", "AutoAttack (the toolbox's)"), strict=True))
EPSILON = f"ε ({GREY_LEVELS}ths of white)"


def attacks(runs: Sequence[Evidence]) -> Section:
    """Show what runs score under attacks, each attack that was measured on any of them."""
    parts: list[Part] = []
    for threat, label in LABELS.items():
        found = find(runs, threat)
        if found.scores:
            parts += remarks(runs, threat, found.scores)
            if any(len(one.levels) > 1 for one in found.scores.values()):
                named = len(runs) > 1
                drawn = curves(
                    found.scores, EPSILON, named=named, scale=GREY_LEVELS, of=f"{label}: "
                )
                parts.append(Plots(drawn))
            parts.append(_table(label, found.scores, named=len(runs) > 1))
            parts += missing(runs, threat, found)
        else:
            parts += found.broken
    if not parts:
        command = robustness_command([FGSM.name, PGD.name], runs)
        parts.append(missing_runs(runs, len(runs), command))
    return Section("attacks", "Attacks", parts)


def _table(label: str, scores: Mapping[str, Scores], *, named: bool) -> Table:
    rows = [
        [
            *([name] if named else []),
            f"{GREY_LEVELS * level:g}",
            f"{100 * accuracy:.2f}",
            "—" if math.isnan(loss) else f"{loss:.4f}",
        ]
        for name, one in scores.items()
        for level, accuracy, loss in zip(
            one.levels, one.accuracy.mean(0), one.loss.mean(0), strict=True
        )
    ]
    headings = (*(["run"] if named else []), EPSILON, "accuracy (%)", "cross-entropy")
    return Table(headings, rows, text_columns=int(named), caption=f"{label}.")
