from __future__ import annotations

import pytest

DRAWN = "test_run.py"


@pytest.fixture(autouse=True)
def _no_plots_but_of_runs(request, monkeypatch):
    """They take as long as the trainings; what a run has to hold is tested in one file."""
    if request.path.name != DRAWN:
        monkeypatch.setattr("timestepper.report.plot_curves", lambda *_: None)
        monkeypatch.setattr("timestepper.report.plot_step_sizes", lambda *_: None)
