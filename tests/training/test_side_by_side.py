"""Trainings that take turns in a process are what they are alone."""

import gc
import io
import signal
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch._dynamo.config
from rich.console import Console
from trainings import TINY, assert_same_end, at_step, checkpoint, metrics, start

from timestepper.cli import main
from timestepper.errors import ConfigurationError, RunError
from timestepper.training import loop
from timestepper.training.configuration import NetworkConfiguration, OptimizerConfiguration
from timestepper.training.interruption import Interrupted
from timestepper.training.loop import SomeFailedError, train_side_by_side
from timestepper.training.run import Run, Training
from timestepper.training.trainer import Trainer
from timestepper.training.turns import Turns, compiled_by_themselves

DROPPING = {"network": NetworkConfiguration("timm/test_resnet", {"drop_path_rate": 0.5})}
COMMAND = ["train", "--network.name", "cifar_resnet8", "--epochs", "1", "--accelerator", "cpu"]


def together(*seeds, resume=False, **changes):
    """Train in folders named after the seeds, and return what is shown."""
    shown = io.StringIO()
    configuration = replace(TINY, **changes)
    trainings = [
        Training(Run(Path(f"seed{seed}")), replace(configuration, seed=seed), resume)
        for seed in seeds
    ]
    train_side_by_side(trainings, console=Console(file=shown, width=200))
    return shown.getvalue()


@pytest.mark.parametrize(
    "changes",
    [DROPPING, {"ema_decay": 0.9}, pytest.param({"compile": True}, marks=pytest.mark.slow)],
    ids=["drop-path", "averaged", "compiled"],
)
def test_each_is_what_it_is_alone(changes):
    """With drop path each step takes random numbers."""
    before = torch.get_rng_state()
    shown = together(3, 4, **changes)
    assert torch.equal(torch.get_rng_state(), before)
    for seed in (3, 4):
        torch.compiler.reset()
        start("alone", seed=seed, **changes)
        assert_same_end(f"seed{seed}", "alone")
        Path("alone").rename(f"alone{seed}")
    final = [float(metrics(f"seed{seed}")[-1]["test_accuracy"]) for seed in (3, 4)]
    mean, deviation = sum(final) / 2, abs(final[0] - final[1]) / 2**0.5
    assert shown.splitlines()[-1] == (
        f"2 trainings: test accuracy {mean:.2%}, standard deviation {deviation:.2%}"
    )
    starts = [line.partition("  ")[0] for line in shown.splitlines() if "train loss" in line]
    assert starts == [f"seed {seed}: epoch {epoch}/2" for epoch in (1, 2) for seed in (3, 4)]


def test_stopped_and_continued(monkeypatch):
    """The fifteenth of all steps is the eighth of the first training."""
    with monkeypatch.context() as patches:
        at_step(patches, 15, lambda trainer: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted) as stopped:
            together(3, 4, **DROPPING)
    assert stopped.value.number == signal.SIGTERM
    assert str(stopped.value) == (
        "stopped 2 trainings; everything is saved, continue with: "
        "timestepper train --resume seed3 seed4"
    )
    assert [checkpoint(f"seed{seed}")["batch"] for seed in (3, 4)] == [8, 8]
    together(3, 4, resume=True, **DROPPING)
    for seed in (3, 4):
        start(f"alone{seed}", seed=seed, **DROPPING)
        assert_same_end(f"seed{seed}", f"alone{seed}")


def test_a_training_that_fails_leaves_the_others_alone(monkeypatch):
    def poison(trainer):
        with torch.no_grad():
            trainer.network.fc.weight[0, 0] = torch.nan

    with monkeypatch.context() as patches:
        at_step(patches, 5, poison)  # the second of seed 4
        with pytest.raises(SomeFailedError) as failed:
            together(3, 4, 5)
    assert str(failed.value).startswith(
        "1 of 3 trainings failed, seed4: the training loss is nan in epoch 1, step 2 at fc; there "
    )
    assert not Path("seed4/checkpoints").exists()
    for seed in (3, 5):
        start(f"alone{seed}", seed=seed)
        assert_same_end(f"seed{seed}", f"alone{seed}")


def test_what_failed_is_let_go(monkeypatch):
    """Others may need its memory."""
    kept, alive = [], []

    def fail(trainer):
        kept.append(weakref.ref(trainer.network))
        raise RunError("it fails")

    def look(trainer):
        gc.collect()
        alive.append(kept[0]() is not None)

    step, made = Trainer.step, []

    def counted(trainer, *batch):
        made.append(1)
        {5: fail, 20: look}.get(len(made), lambda _: None)(trainer)
        return step(trainer, *batch)

    monkeypatch.setattr(Trainer, "step", counted)
    with pytest.raises(SomeFailedError, match="1 of 2 trainings failed, seed3: it fails"):
        together(3, 4)
    assert alive == [False]


def test_folders_in_which_another_process_trains(monkeypatch):
    monkeypatch.setattr("timestepper.training.run.PATIENCE", 0)
    runs = [Run(Path(f"seed{seed}")) for seed in (4, 5)]
    with runs[0].writing(), runs[1].writing(), pytest.raises(SomeFailedError) as failed:
        together(3, 4, 5, epochs=1)
    reasons = {run.folder.name: reason for run, reason in failed.value.reasons.items()}
    assert list(reasons) == ["seed4", "seed5"]
    for name, reason in reasons.items():
        assert reason.startswith(f"another process is training in {name}; ")
    assert str(failed.value) == f"2 of 3 trainings failed, seed4: {reasons['seed4']}"
    assert Path("seed3/folded.safetensors").exists()


@pytest.mark.parametrize(
    ("raised", "named"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "GPU memory"),
        (None, "memory"),
    ],
    ids=["gpu", "host"],
)
def test_too_little_memory(monkeypatch, raised, named):
    def fill(trainer):
        if raised:
            raise raised
        torch.empty(2**60)

    with monkeypatch.context() as patches:
        at_step(patches, 6, fill)
        with pytest.raises(RunError, match=f"^there is not enough {named} for the training; make "):
            start("alone")
    at_step(monkeypatch, 6, fill)
    with pytest.raises(SomeFailedError, match=f"seed4: there is not enough {named} for the train"):
        together(3, 4)
    assert Path("seed3/folded.safetensors").exists()


def test_a_signal_when_one_has_ended(monkeypatch):
    """What has ended gets its report all the same."""
    start("seed3", seed=3)
    reported = []
    monkeypatch.setattr(loop, "write_report", lambda run, trained: reported.append(run) or "")
    at_step(monkeypatch, 5, lambda trainer: signal.raise_signal(signal.SIGTERM))
    runs = [Run(Path(f"seed{seed}")) for seed in (3, 4)]
    trainings = [
        Training(run, replace(TINY, seed=seed), resume=seed == 3)
        for run, seed in zip(runs, (3, 4), strict=True)
    ]
    with pytest.raises(Interrupted, match=r"continue with: timestepper train --resume seed4$"):
        train_side_by_side(trainings, console=Console(quiet=True), report=True)
    assert reported == runs[:1]
    assert checkpoint("seed4")["batch"] == 5


def test_a_signal_before_the_first_step_of_some(monkeypatch):
    with monkeypatch.context() as patches:
        at_step(patches, 1, lambda trainer: signal.raise_signal(signal.SIGTERM))
        with pytest.raises(Interrupted, match=r"--resume seed3 seed4 seed5$"):
            together(3, 4, 5)
    assert [checkpoint(f"seed{seed}")["batch"] for seed in (3, 4, 5)] == [1, 0, 0]
    together(3, 4, 5, resume=True)
    start("alone", seed=5)
    assert_same_end("seed5", "alone")


def test_more_than_seeds_differ():
    runs = [Training(Run(Path(name)), TINY, False) for name in ("first", "second")]
    other = replace(runs[1], configuration=replace(TINY, optimizer=OptimizerConfiguration(lr=0.2)))
    with pytest.raises(ConfigurationError, match="first and second differ in more than their se"):
        train_side_by_side([runs[0], other], console=Console(quiet=True))
    assert not Path("first").exists()


def test_the_same_seed():
    trainings = [Training(Run(Path(name)), TINY, resume=False) for name in ("first", "second")]
    with pytest.raises(ConfigurationError, match="first and second have the same seed; use a com"):
        train_side_by_side(trainings, console=Console(quiet=True))


@pytest.mark.parametrize(
    ("processes", "device", "changes", "message"),
    [
        (2, "cpu", {}, "several trainings side by side can't share 2 processes"),
        (
            1,
            "cuda",
            {"compile": True, "optimizer": OptimizerConfiguration(skip_not_finite=True)},
            "on a GPU compiled trainings with a penalty or skip_not_finite can't be side by side",
        ),
    ],
)
def test_what_can_not_take_turns(monkeypatch, processes, device, changes, message):
    fabric = SimpleNamespace(world_size=processes, device=torch.device(device))
    monkeypatch.setattr(loop, "build_fabric", lambda configuration: fabric)
    with pytest.raises(ConfigurationError, match=message):
        together(3, 4, **changes)


def test_command(capsys):
    assert main([*COMMAND, "--seeds", "3", "4", "--folder", "run/"]) == 0
    shown = capsys.readouterr().out
    for seed in (3, 4):
        assert f"seed {seed}: report: run-{seed}/report.html" in shown
        assert Run(Path(f"run-{seed}")).read_configuration().seed == seed
    assert main(["train", "--resume", "run-3", "run-4"]) == 0
    assert "seed 4: test accuracy" in capsys.readouterr().out


def test_command_names_runs_by_their_seeds():
    assert main([*COMMAND, "--seeds", "7"]) == 0
    assert Path("runs/digits-cifar_resnet8-lstm-7/folded.safetensors").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "1", "1"], "--seeds has 1 twice; name each one once"),
        (["--seeds", "1", "2", "--seed", "3"], "--seed and --seeds can't go together; leave one"),
        (["--seeds", "1", "many"], "seeds"),
        (["--seeds"], "seeds"),
        (["--seeds", "1", "-2"], "seed is -2; it must be from 0 to 2^63 - 1"),
    ],
)
def test_wrong_seeds(arguments, message, capsys):
    assert main([*COMMAND, *arguments]) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert not Path("runs").exists()


def test_wrong_runs_to_resume(capsys):
    start("first", epochs=1)
    start("second", epochs=1, seed=1, batch_size=32)
    for runs, message in {
        ("first", "./first"): "twice; name each one once",
        ("first", "nowhere"): "there is no run folder nowhere",
        ("first", "second"): "first and second differ in more than their seeds",
    }.items():
        assert main(["train", "--resume", *runs]) == 2
        assert message in capsys.readouterr().err


def test_turns_have_random_numbers_of_their_own():
    torch.manual_seed(5)
    alone = torch.rand(4)
    torch.manual_seed(5)
    turns = [Turns(torch.device("cpu")) for _ in range(2)]
    drawn = [[], []]
    for _ in range(4):
        for own, numbers in zip(turns, drawn, strict=True):
            with own.turn():
                numbers.append(torch.rand(1))
    outside = torch.rand(4)
    for numbers in (*map(torch.cat, drawn), outside):
        assert torch.equal(numbers, alone)


class Multiplied(torch.nn.Module):
    """Torch compiles its forward again for each factor."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return self.factor * x


@torch._dynamo.config.patch(recompile_limit=8)
def test_all_networks_are_compiled():
    """By itself torch gives up after eight of a class; other libraries may change that."""
    compiled = []

    def backend(graph, example_inputs):
        compiled.append(graph)
        return graph

    def count():
        torch.compiler.reset()
        compiled.clear()
        for factor in range(12):
            torch.compile(Multiplied(factor), backend=backend, dynamic=False)(torch.ones(1))
        return len(compiled)

    assert count() < 12
    with compiled_by_themselves(12):
        assert count() == 12
    assert count() < 12
