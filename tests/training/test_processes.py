"""Training on two processes, as torchrun starts them, against one process."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trainings import assert_identical, checkpoint

from timestepper import data
from timestepper.cli import main
from timestepper.stability import StabilityPenalty
from timestepper.training.build import build_network
from timestepper.training.configuration import Configuration, NetworkConfiguration
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
ONE_STEP = """
from dataclasses import replace
from pathlib import Path

import torch
from timestepper import data
from timestepper.training.build import build_fabric
from timestepper.training.configuration import *
from timestepper.training.trainer import Trainer
from timestepper.training.run import Run

plain = Configuration(
    network=NetworkConfiguration("cifar_resnet8"), accelerator="cpu", batch_size=32
)
fabric = build_fabric(plain)
found = {}
for strength in (0.0, 10.0):
    stability = StabilityConfiguration("bound", strength) if strength else StabilityConfiguration()
    configuration = replace(plain, stability=stability)
    trainer = Trainer(Run(Path("run")), configuration, data.load("digits"), fabric)
    batches = iter(trainer.batches(0))
    trainer.step(*next(batches))
    found[strength] = {n: p.grad.clone() for n, p in trainer.network.named_parameters()}
for _ in range(5):
    trainer.step(*next(batches))
found["penalty"] = trainer.last_penalty
found["vectors"] = trainer.penalty.vectors
torch.save(found, f"process{fabric.global_rank}.pt")
if fabric.world_size > 1:
    torch.distributed.destroy_process_group()
"""
DOUBLE = """
from dataclasses import replace
from pathlib import Path

import torch
from timestepper import data
from timestepper.training import steps
from timestepper.training.build import build_fabric, build_network
from timestepper.training.configuration import *
from timestepper.training.trainer import Trainer
from timestepper.training.run import Run

steps.build_network = lambda *given: build_network(*given).double()
plain = Configuration(
    network=NetworkConfiguration("cifar_resnet14"),
    accelerator="cpu",
    batch_size=52,  # so that both have as many steps in an epoch, and the same learning rates
    sync_batch_norm=True,
)
fabric = build_fabric(plain)
found = []
for controller in ("lstm", "lstm+"):
    configuration = replace(plain, stepping=SteppingConfiguration(controller))
    trainer = Trainer(Run(Path("run")), configuration, data.load("digits"), fabric)
    for _, (inputs, labels) in zip(range(4), trainer.batches(0)):
        trainer.step(inputs.double(), labels)
        gradients = {n: p.grad.clone() for n, p in trainer.network.named_parameters()}
        found.append((gradients, {k: v.clone() for k, v in trainer.network.state_dict().items()}))
        trainer.batch += 1
torch.save(found, f"{fabric.world_size}-{fabric.global_rank}.pt")
if fabric.world_size > 1:
    torch.distributed.destroy_process_group()
"""
APART = """
import os

os.chdir(os.environ["RANK"])
"""
NETWORK = ("--network.name", "cifar_resnet8", "--accelerator", "cpu")
SETTINGS = (*NETWORK, "--epochs", "2")
LONGER = (*NETWORK, "--epochs", "4")


def torchrun(*arguments, program=COMMAND):
    command = [BIN / "torchrun", "--standalone", "--nproc_per_node", "2", "--no-python"]
    return [*command, sys.executable, "-c", program, "train", *arguments]


def run(*arguments, program=COMMAND):
    command = torchrun(*arguments, program=program)
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """A training of two processes: its folder, and what they said."""
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    done = run(*LONGER, "--folder", str(folder))
    assert done.returncode == 0, done.stderr
    return folder, done


def test_two_processes_train_one_network(unbroken):
    folder, done = unbroken
    lines = done.stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [f"epoch {n}/4" for n in (1, 2, 3, 4)]
    assert len(lines) == 6  # the second process keeps quiet
    assert lines[-1] == f"report: {folder}/report.html"
    # A thread of the process group that is left may abort the process at its end.
    assert [line for line in done.stderr.splitlines() if line.startswith("left:")] == ["left:"] * 2
    trained = load_trained(Run(folder))
    row = checkpoint(folder)["history"][-1]
    scores = evaluate(trained.network, trained.images, trained.fabric, 250)
    assert scores.accuracy == pytest.approx(row["test_accuracy"], abs=1e-6)
    assert scores.loss == pytest.approx(row["test_loss"], rel=1e-4)
    assert scores.accuracy > 0.5


@pytest.mark.slow
def test_the_stability_penalty_counts_as_much_on_two_processes_as_on_one():
    done = run(program=ONE_STEP)
    assert done.returncode == 0, done.stderr
    first, second = (torch.load(f"process{rank}.pt", weights_only=True) for rank in (0, 1))
    configuration = Configuration(network=NetworkConfiguration("cifar_resnet8"))
    network = build_network(configuration, data.load("digits"))
    StabilityPenalty(network, torch.zeros(1, 1, 8, 8))().backward()
    for name, parameter in network.named_parameters():
        added = first[10.0][name] - first[0.0][name]
        expected = torch.zeros_like(added) if parameter.grad is None else 10 * parameter.grad
        assert torch.allclose(added, expected, rtol=1e-4, atol=1e-5), name
        assert torch.equal(first[10.0][name], second[10.0][name])
    # Each process has seen other images, but they agree about the penalty.
    assert torch.equal(first["penalty"], second["penalty"])
    for one, other in zip(first["vectors"], second["vectors"], strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
def test_two_processes_do_what_one_does_with_the_same_batch():
    """Gradients, weights and statistics of each of four steps of each controller, in float64."""
    done = run(program=DOUBLE)
    assert done.returncode == 0, done.stderr
    alone = subprocess.run([sys.executable, "-c", DOUBLE], timeout=300)
    assert alone.returncode == 0
    one, *both = (torch.load(f"{name}.pt", weights_only=True) for name in ("1-0", "2-0", "2-1"))
    assert len(one) == 8
    for ranks in both:
        for expected, found in zip(one, ranks, strict=True):
            for kind in (0, 1):
                assert expected[kind].keys() == found[kind].keys()
                for name, value in expected[kind].items():
                    torch.testing.assert_close(found[kind][name], value, rtol=1e-10, atol=1e-10)


def damaged(folder):
    """Damage the last checkpoint."""
    path = folder / "checkpoints" / "last.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def other_weights(folder):
    """Leave the weights of another training in the last checkpoint."""
    state = checkpoint(folder)
    state["network"]["conv1.weight"] += 1
    torch.save(state, folder / "checkpoints" / "last.pt")


def no_checkpoints(folder):
    shutil.rmtree(folder / "checkpoints")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (damaged, r"process 1 after epoch 3 \(.*last.pt can't be read .*\); copy the folder"),
        pytest.param(other_weights, "process 1 after epoch 4, with other", marks=pytest.mark.slow),
        pytest.param(no_checkpoints, "process 1 from the beginning;", marks=pytest.mark.slow),
    ],
)
def test_processes_do_not_go_on_from_different_checkpoints(unbroken, change, said):
    """Each in a folder of its own, as on machines that share none."""
    for rank in ("0", "1"):
        shutil.copytree(unbroken[0], Path(rank) / "run")
    change(Path("1/run"))
    before = Path("0/run/provenance.txt").read_bytes()
    done = run("--resume", "run", program=APART + COMMAND)
    errors = [line for line in done.stderr.splitlines() if line.startswith("timestepper: error: ")]
    assert done.returncode != 0
    # torchrun ends the other one as soon as it sees that one has failed.
    assert 1 <= len(errors) <= 2
    for line in errors:
        assert re.search(f"run: not all .*: process 0 would go on after epoch 4, {said}", line)
    assert Path("0/run/provenance.txt").read_bytes() == before


def children(pid):
    """List the processes that a process has started."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


@pytest.mark.slow
def test_a_worker_is_killed_and_torchrun_starts_again(unbroken):
    command = torchrun(*LONGER, "--folder", "killed")
    command.insert(1, "--max-restarts=1")
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline().startswith("epoch 1/4")
        assert process.stdout.readline().startswith("epoch 2/4")
        os.kill(children(process.pid)[1], signal.SIGKILL)
        shown, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert [line.split("  ")[0] for line in shown.splitlines()[:2]] == ["epoch 3/4", "epoch 4/4"]
    assert_identical(checkpoint("killed"), checkpoint(unbroken[0]))


def test_a_restart_does_not_go_on_with_another_training(monkeypatch, capsys):
    assert main(["train", *SETTINGS, "--folder", "run"]) == 0
    before = Path("run/metrics.csv").read_bytes()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main(["train", *SETTINGS, "--seed", "1", "--folder", "run"]) == 2
    assert "run folder run exists already" in capsys.readouterr().err
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    assert main(["train", *SETTINGS, "--folder", "run"]) == 0
    assert Path("run/metrics.csv").read_bytes() == before


@pytest.mark.slow
def test_two_machines(unbroken):
    """Two torchrun agents that find each other, as on two machines, end as one with two workers."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    meeting = ("--rdzv_backend=c10d", f"--rdzv_endpoint=localhost:{port}", "--rdzv_id=test")
    program = [*("--no-python", BIN / "timestepper", "train"), *LONGER, "--folder", "two"]
    command = [BIN / "torchrun", "--nnodes=2", "--nproc_per_node=1", *meeting, *program]
    agents = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [agent.communicate(timeout=200) for agent in agents]
    assert [agent.returncode for agent in agents] == [0, 0], said
    assert sorted(len(shown.splitlines()) for shown, _ in said) == [0, 6]
    assert_identical(checkpoint("two"), checkpoint(unbroken[0]))


@pytest.mark.slow
def test_two_processes_are_stopped_and_go_on_bit_for_bit():
    """The options include drop path, so that each process has a generator state of its own."""
    dropping = ("--network.name", "timm/resnet10t", "--network.options.drop_path_rate", "0.5")
    penalised = ("--stability.penalty", "bound", "--stability.strength", "0.01")
    settings = (*SETTINGS, *dropping, *penalised)
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


@pytest.mark.slow
def test_batch_that_two_processes_cannot_share():
    done = run(*SETTINGS, "--batch_size", "63", "--folder", "run")
    assert done.returncode != 0
    assert "batch_size is 63, which 2 processes can't share equally" in done.stderr
    assert not Path("run").exists()
