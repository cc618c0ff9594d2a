"""Keeps a report fresh while a run is being trained."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import NOISE_FILE, STABILITY_FILE
from timestepper.report.html.write import read_runs, write_report
from timestepper.training.run import Run

SECONDS = 5
"""Between two looks at the folders, and between two refreshes of the page."""

State = list[float | None]


def watch(folders: Sequence[Path], path: Path, *, pause: float = SECONDS) -> list[Evidence]:
    """Write the page anew whenever there is something new in the folders, until all runs are done.

    Args:
        folders: of the runs.
        path: the file.
        pause: seconds between two looks.

    Returns:
        The runs as the last page shows them, which doesn't load itself anew any more. It is
        written on Ctrl-C, too.

    Raises:
        TimestepperError: a folder is not a run, or broken.
        OSError: the file can't be written.
    """
    runs: list[Evidence] = []
    seen: State = []
    try:
        while not (runs and all(run.is_finished for run in runs)):
            now = _state(folders)
            if now != seen and _have_begun(folders):
                runs, seen = read_runs(folders), now
                write_report(runs, path, refresh=SECONDS)
            else:
                time.sleep(pause)
    finally:
        if runs:
            write_report(runs, path)
    return runs


def _have_begun(folders: Sequence[Path]) -> bool:
    """Tell whether each run has an epoch.

    Raises:
        RunError: a folder is not a run.
    """
    runs = [Run(folder) for folder in folders]
    for run in runs:
        run.read_configuration()
    return all(run.metrics.exists() for run in runs)


def _state(folders: Sequence[Path]) -> State:
    """Tell when the files that the page shows were written last."""
    runs = [Run(folder) for folder in folders]
    files = [
        file
        for run in runs
        for file in (run.metrics, run.folder / STABILITY_FILE, run.folder / NOISE_FILE)
    ]
    return [file.stat().st_mtime if file.exists() else None for file in files]
