"""Growth of perturbations in several runs over each other."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import missing_runs, read_stability
from timestepper.report.html.parts import MISSING, Missing, Part, Plots, Section
from timestepper.report.html.sections.stability import TITLE, bounds, growth, stages


def stability(runs: Sequence[Evidence]) -> Section:
    """Draw what was measured of runs' stability."""
    found = {run.name: read_stability(run) for run in runs}
    files = {name: one for name, one in found.items() if not isinstance(one, Missing)}
    broken = {
        name: one for name, one in found.items() if isinstance(one, Missing) and one.why != MISSING
    }
    measured: dict[str, dict[str, Any]] = {}
    for run in runs:
        one = _of(run, files)
        if one is not None:
            measured[run.name] = one
    parts: list[Part] = []
    if measured:
        parts += [Plots([growth(measured, named=True)]), stages(measured, named=True)]
    parts += broken.values()
    left = [run for run in runs if run.name not in measured]
    parts += bounds(left)
    if missing := [run for run in left if run.name not in broken]:
        first, *rest = (str(run.run.folder) for run in missing)
        words = ["timestepper", "stability", first, *(["--compare", *rest] if rest else [])]
        parts.append(missing_runs(missing, len(runs), shlex.join(words)))
    return Section("stability", TITLE, parts)


def _of(run: Evidence, files: Mapping[str, dict[str, dict[str, Any]]]) -> dict[str, Any] | None:
    """Find what was measured on a run, in its own folder or beside another that it was compared to.

    The command names networks as they were given to it, relative to where it ran.
    """
    if run.name in files:
        return next(iter(files[run.name].values()))
    here = run.run.folder.resolve()
    for measured in files.values():
        for name, one in measured.items():
            if Path(name).resolve() == here:
                return one
    return None
