"""What a run keeps about how its step sizes moved, and about the code that made it."""

import shutil
from pathlib import Path

import pytest
import torch
from trainings import interrupt, start

from timestepper.errors import RunError
from timestepper.stepping import step_sizes
from timestepper.training.configuration import SteppingConfiguration
from timestepper.training.run import Run
from timestepper.training.step_history import read_step_history, write_step_history
from timestepper.training.trained import load_trained


def test_history_has_the_start_and_every_epoch():
    start("run")
    run = Run(Path("run"))
    history = read_step_history(run.step_history)
    final = step_sizes(load_trained(run).network)
    assert list(history) == list(final)
    for name, rows in history.items():
        assert rows.shape == (3, len(final[name]))
        # Computed anew, and rounding depends on where tensors lie in memory.
        torch.testing.assert_close(rows[2], final[name], rtol=0, atol=1e-6)
        assert (rows[0] - 0.5).abs().max() < 0.1
        assert not torch.equal(rows[0], rows[1])


def test_an_interruption_leaves_the_same_history(monkeypatch):
    start("whole")
    interrupt("run", monkeypatch, 30)
    start("run", resume=True)
    whole, resumed = (read_step_history(Run(Path(f)).step_history) for f in ("whole", "run"))
    assert list(whole) == list(resumed)
    for name in whole:
        torch.testing.assert_close(resumed[name], whole[name], rtol=0, atol=1e-6)


def test_provenance_tells_where_other_code_may_have_gone_on(monkeypatch):
    interrupt("run", monkeypatch, 30)
    start("run", resume=True)
    lines = Path("run/provenance.txt").read_text().splitlines()
    sections = [line for line in lines if not line.startswith("  ")]
    assert sections[0] == "from the start:"
    assert len(sections) == 2
    assert sections[1].startswith("from 1 of 2 epochs and ")
    assert len([line for line in lines if line.startswith("  commit: ")]) == 2


def test_a_plain_network_has_no_history():
    start("run", stepping=SteppingConfiguration("none"))
    assert not Path("run/step_sizes.safetensors").exists()
    with pytest.raises(RunError, match="only runs with step sizes have one"):
        read_step_history(Path("run/step_sizes.safetensors"))


def test_order_of_depth_survives_the_file(tmp_path):
    history = {f"layer{i}.{j}": torch.full((2, 3), i + j / 100) for i in (2, 1) for j in range(12)}
    write_step_history(history, tmp_path / "steps.safetensors")
    assert list(read_step_history(tmp_path / "steps.safetensors")) == list(history)


def test_what_stopped_before_its_first_checkpoint_is_of_the_code_that_starts_again():
    start("run")
    shutil.rmtree("run/checkpoints")
    Path("run/provenance.txt").write_text("from the start:\n  commit: old\n")
    start("run", resume=True)
    text = Path("run/provenance.txt").read_text()
    assert "old" not in text
    assert text.count("  commit: ") == 1
