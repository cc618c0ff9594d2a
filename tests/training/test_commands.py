"""Commands in messages can be pasted, whatever the folder is called."""

import shlex
from pathlib import Path

import pytest

from timestepper.errors import RunError
from timestepper.training.commands import command, resuming
from timestepper.training.configuration import Configuration
from timestepper.training.explanations import read_explanations
from timestepper.training.progress import last_line
from timestepper.training.recipes import write_configuration
from timestepper.training.run import Run
from timestepper.training.step_history import read_step_history

RESUME = "timestepper train --resume 'runs/my run'"


def test_a_shell_takes_the_words_apart():
    folders = [Path("runs/my run"), Path("it's"), Path("$HOME;"), Path("plain")]
    assert shlex.split(resuming(Path("-x")))[3:] == ["./-x"]
    assert shlex.split(resuming(*folders))[3:] == [str(folder) for folder in folders]
    assert resuming(folders[0]) == RESUME
    assert command("report", Path("plain")) == "timestepper report plain"


def test_messages():
    run = Run(Path("runs/my run"))
    run.folder.mkdir(parents=True)
    write_configuration(Configuration(), run.configuration)
    with pytest.raises(RunError, match=r"exists already; continue it with --resume 'runs/my run',"):
        run.require_new()
    with pytest.raises(RunError, match=f"continue the training with {RESUME}$"):
        run.checkpoints.load()
    with pytest.raises(RunError, match=f"and {RESUME} writes it anew"):
        read_explanations(run.explanation)
    with pytest.raises(RunError, match=f"and {RESUME} writes it anew"):
        read_step_history(run.step_history)
    with pytest.raises(RunError, match=f"mend this and continue with: {RESUME}"), run.writing():
        raise OSError(28, "No space left on device")
    row = {"epoch": 1, "validation_loss": 1.0, "validation_accuracy": 0.5}
    assert "; timestepper evaluate 'runs/my run' measures" in last_line(row, run)
