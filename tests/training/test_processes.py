"""Training on two processes, as torchrun starts them, against one process."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import checkpoint

from timestepper.training.evaluation import evaluate
from timestepper.training.run import Run
from timestepper.training.trained import load_trained

BIN = Path(sys.executable).parent
COMMAND = """
import sys
from pathlib import Path
from timestepper.cli import main

status = main()
names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
print("left:", *(name for name in names if "gloo" in name), file=sys.stderr)
sys.exit(status)
"""
SETTINGS = ("--network.name", "cifar_resnet8", "--accelerator", "cpu", "--epochs", "2")


@pytest.fixture(autouse=True)
def _one_thread_each(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def torchrun(*arguments):
    command = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python"]
    return [*command, sys.executable, "-c", COMMAND, "train", *arguments]


def run(*arguments):
    return subprocess.run(torchrun(*arguments), capture_output=True, text=True, timeout=300)


def test_two_processes_train_one_network():
    done = run(*SETTINGS, "--folder", "run")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:2]] == ["epoch 1/2", "epoch 2/2"]
    assert len(lines) == 3  # the second process keeps quiet
    # A thread of the process group that is left may abort the process at its end.
    assert [line for line in done.stderr.splitlines() if line.startswith("left:")] == ["left:"] * 2
    trained = load_trained(Run(Path("run")))
    row = checkpoint("run")["history"][-1]
    scores = evaluate(trained.network, trained.images, trained.fabric, 250)
    assert scores.accuracy == pytest.approx(row["test_accuracy"], abs=1e-6)
    assert scores.loss == pytest.approx(row["test_loss"], rel=1e-4)
    assert scores.accuracy > 0.5


@pytest.mark.slow
def test_two_processes_are_stopped_and_go_on_bit_for_bit():
    """The options include drop path, so that each process has a generator state of its own."""
    dropping = ("--network.name", "timm/resnet10t", "--network.options.drop_path_rate", "0.5")
    settings = (*SETTINGS, *dropping)
    assert run(*settings, "--folder", "unbroken").returncode == 0
    pipe = subprocess.PIPE
    with subprocess.Popen(
        torchrun(*settings, "--folder", "stopped"), stdout=pipe, stderr=pipe, text=True
    ) as process:
        assert process.stdout.readline().startswith("epoch 1/2")
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=120)
    assert "everything is saved, continue with: timestepper train --resume stopped" in errors
    assert not Path("stopped/folded.safetensors").exists()
    done = run("--resume", "stopped")
    assert done.returncode == 0, done.stderr
    one, other = checkpoint("unbroken"), checkpoint("stopped")
    for name, tensor in one["network"].items():
        assert torch.equal(tensor, other["network"][name])


def test_batch_that_two_processes_cannot_share():
    done = run(*SETTINGS, "--batch_size", "63", "--folder", "run")
    assert done.returncode != 0
    assert "batch_size is 63, which 2 processes can't share equally" in done.stderr
    assert not Path("run").exists()
