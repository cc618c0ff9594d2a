"""Growth of perturbations in several runs over each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import (
    STABILITY_FILE,
    missing_runs,
    name_in_stability,
    read_stability,
    stability_command,
)
from timestepper.report.html.parts import MISSING, Missing, Part, Plots, Section
from timestepper.report.html.sections.stability import TITLE, bounds, growth, remarks, stages


def stability(runs: Sequence[Evidence]) -> Section:
    """Draw what was measured of runs' stability."""
    found = {run.name: read_stability(run) for run in runs}
    files = {name: one for name, one in found.items() if not isinstance(one, Missing)}
    broken = {
        name: one for name, one in found.items() if isinstance(one, Missing) and one.why != MISSING
    }
    measured: dict[str, dict[str, Any]] = {}
    parts: list[Part] = []
    for run in runs:
        if one := _of(run, runs, files):
            path, name, measured[run.name] = one
            parts += remarks(run, path, name)
    if measured:
        parts += [Plots([growth(measured, named=True)]), stages(measured, named=True)]
    parts += broken.values()
    left = [run for run in runs if run.name not in measured]
    parts += bounds(left)
    if missing := [run for run in left if run.name not in broken]:
        parts.append(missing_runs(missing, len(runs), stability_command(missing)))
    return Section("stability", TITLE, parts)


def _of(
    run: Evidence, runs: Sequence[Evidence], files: Mapping[str, dict[str, dict[str, Any]]]
) -> tuple[Path, str, dict[str, Any]] | None:
    """Find what was measured on a run, in its own folder or beside another that it was compared to.

    Args:
        run: the run.
        runs: all that the page is about.
        files: what their files have, by their names.

    Returns:
        The file, what it calls the run, and what was measured; None where there is nothing.
    """
    for other in (run, *runs):
        path = other.run.folder / STABILITY_FILE
        content = files.get(other.name)
        if content and (name := name_in_stability(run, path, content)):
            return path, name, content[name]
    return None
