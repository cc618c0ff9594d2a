from __future__ import annotations

import pytest

DRAWN = ("test_run.py", "test_validation.py")


@pytest.fixture(autouse=True)
def _no_plots(request, monkeypatch):
    """They take as long as the trainings; the files above look at them."""
    if request.path.name not in DRAWN:
        monkeypatch.setattr("timestepper.report.plot_curves", lambda *_: None)
        monkeypatch.setattr("timestepper.report.plot_step_sizes", lambda *_: None)
