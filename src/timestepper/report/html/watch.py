"""Keeps a report fresh while runs are being trained."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from timestepper.report.html.evidence import Evidence
from timestepper.report.html.measurements import measurement_files
from timestepper.report.html.write import read_runs, write_report
from timestepper.training.run import Run

SECONDS = 5.0
"""Between two looks at the folders, and between two refreshes of the page."""


def watch(folders: Sequence[Path], path: Path, *, pause: float = SECONDS) -> Iterator[bool]:
    """Write the page anew whenever there is something new in the folders, until all runs are done.

    The last page, or that of the moment when the iterator is closed, does not refresh itself.

    Args:
        folders: of the runs.
        path: the file.
        pause: seconds between two looks.

    Yields:
        After each look whether a page was written; none is before each run has an epoch.

    Raises:
        TimestepperError: a folder is not a run, or broken.
        OSError: the file can't be written.
    """
    runs: list[Evidence] = []
    seen: dict[Path, float] = {}
    try:
        while not (runs and all(run.is_finished for run in runs)):
            now = _state(folders)
            is_new = _have_begun(folders) and now != seen
            if is_new:
                runs, seen = read_runs(folders), now
                write_report(runs, path, refresh=round(SECONDS))
            yield is_new
            time.sleep(pause)
    finally:
        if runs:
            write_report(runs, path)


def _have_begun(folders: Sequence[Path]) -> bool:
    """Tell whether each run has an epoch.

    Raises:
        RunError: a folder is not a run.
    """
    runs = [Run(folder) for folder in folders]
    for run in runs:
        run.read_configuration()
    return all(run.metrics.exists() for run in runs)


def _state(folders: Sequence[Path]) -> dict[Path, float]:
    """Tell when the files that the page shows were written last."""
    runs = [Run(folder) for folder in folders]
    files = [file for run in runs for file in (run.metrics, *measurement_files(run))]
    return {file: file.stat().st_mtime for file in files if file.exists()}
