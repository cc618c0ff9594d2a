"""Noise curves of several runs over each other."""

from __future__ import annotations

from collections.abc import Sequence

from timestepper.report.html.comparison.stability import missing_runs
from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import read_noise
from timestepper.report.html.parts import MISSING, Missing, Part, Section, Text
from timestepper.report.html.sections.noise import TITLE, noise_plots


def noise(runs: Sequence[Evidence]) -> Section:
    """Draw what runs score under noise, those of which it was measured."""
    folders = [run.run.folder for run in runs]
    found = {run.name: read_noise(run, folders) for run in runs}
    measured = {name: one for name, one in found.items() if not isinstance(one, Missing)}
    described = dict.fromkeys(one.description for one in measured.values() if one.description)
    parts: list[Part] = [*map(Text, described)]
    if measured:
        parts.append(noise_plots(measured, named=True))
    broken = {
        one.why: one for one in found.values() if isinstance(one, Missing) and one.why != MISSING
    }
    parts += broken.values()
    if missing := [run for run in runs if run.name not in measured]:
        parts.append(missing_runs(missing, len(runs), "robustness"))
    return Section("noise", TITLE, parts)
