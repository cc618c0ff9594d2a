import io

import pytest
from rich.console import Console
from trainings import TINY

from timestepper.training.loop import train
from timestepper.training.run import Run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run that was really trained, two epochs of the smallest network, with its report."""
    run = Run(tmp_path_factory.mktemp("runs") / "real")
    shown = io.StringIO()
    train(run, TINY, resume=False, console=Console(file=shown, width=200), report=True)
    assert shown.getvalue().endswith(f"report: {run.report}\n")
    return run
