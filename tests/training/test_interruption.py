"""Signals and losses that are not finite: say what happened, keep what is good."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from trainings import UPDATES, assert_same_end, at_step, checkpoint, interrupt, start

from timestepper.errors import DataError, RunError
from timestepper.training import evaluation
from timestepper.training.configuration import (
    DataConfiguration,
    OptimizerConfiguration,
    StabilityConfiguration,
)
from timestepper.training.interruption import Interrupted, Signals
from timestepper.training.results import write_report
from timestepper.training.run import Run
from timestepper.training.trained import load_trained


@pytest.fixture
def heeds_ctrl_c():
    """A shell's background jobs, of which this may be one, ignore the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_says_how_to_go_on(which, monkeypatch):
    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    stopped = interrupt("run", monkeypatch, 9, which)
    assert stopped.number == which
    assert str(stopped) == (
        "stopped after 0 of 2 epochs and 9 of 23 steps; everything is saved, continue with: "
        "timestepper train --resume run"
    )
    assert checkpoint("run")["batch"] == 9
    assert [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)] == handlers


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGHUP])
def test_signals_that_are_ignored_stay_so(which):
    before = signal.signal(which, signal.SIG_IGN)
    try:
        with Signals((which, signal.SIGTERM)) as signals:
            signal.raise_signal(which)
            assert signals.received is None
            signal.raise_signal(signal.SIGTERM)
            assert signals.received == signal.SIGTERM
            assert signal.getsignal(which) == signal.SIG_IGN
        assert signal.getsignal(which) == signal.SIG_IGN
    finally:
        signal.signal(which, before)


@pytest.mark.usefixtures("heeds_ctrl_c")
def test_second_signal_takes_effect_at_once(monkeypatch):
    def twice(trainer):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(monkeypatch, 3, twice)
    with pytest.raises(KeyboardInterrupt):
        start("run")


@pytest.mark.usefixtures("heeds_ctrl_c")
@pytest.mark.parametrize(
    ("which", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_command_leaves_with_the_status_of_the_signal(which, status):
    settings = ("--network.name", "cifar_resnet8", "--epochs", "1000", "--folder", "run")
    command = [Path(sys.executable).with_name("timestepper"), "train", *settings]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout.readline().startswith("epoch    1/1000  train loss")
        process.send_signal(which)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == status
    assert errors.startswith("timestepper: stopped after ")
    assert errors.endswith("continue with: timestepper train --resume run\n")
    assert errors.count("\n") == 1


CHANGES = [
    {},
    {"ema_decay": 0.9},
    {"stability": StabilityConfiguration(penalty="spectral", strength=1e-3)},
]


@pytest.mark.parametrize("changes", CHANGES, ids=lambda changes: "".join(changes) or "plain")
def test_signal_in_an_evaluation(changes, monkeypatch):
    """It may take longer than a scheduler waits, and the epoch is not to be trained again."""
    measure, made = evaluation.measure, []

    def told(*arguments):
        made.append(1)
        if len(made) == 4:  # the second batch of test images of the second epoch
            signal.raise_signal(signal.SIGTERM)
        measure(*arguments)

    start("unbroken", **changes)
    with monkeypatch.context() as patches:
        patches.setattr(evaluation, "measure", told)
        with pytest.raises(Interrupted, match=f"stopped after 1 of 2 epochs and {UPDATES} of"):
            start("run", **changes)
    assert len(made) == 4
    steps = []
    at_step(monkeypatch, 1, steps.append)
    start("run", resume=True)
    assert not steps
    assert_same_end("run", "unbroken")
    # The epoch that was stopped has no rate.
    run = Run(Path("run"))
    assert write_report(run, load_trained(run)).startswith("report: ")


def test_signal_to_all_processes_of_a_training_that_reads_files(make_folder, monkeypatch):
    """Schedulers send it to the worker processes too."""
    folder = make_folder("images", sizes=((80, 80),), train=12)
    data = DataConfiguration("imagefolder", str(folder), image_size=72, workers=1)

    def tell_all(trainer):
        for worker in multiprocessing.active_children():
            os.kill(worker.pid, signal.SIGTERM)
        time.sleep(0.5)
        signal.raise_signal(signal.SIGTERM)

    at_step(monkeypatch, 2, tell_all)
    with pytest.raises(Interrupted, match="stopped after 0 of 2 epochs and 2 of 6 steps"):
        start("run", data=data, batch_size=4)
    assert checkpoint("run")["batch"] == 2


def test_a_worker_process_is_killed(make_folder, monkeypatch):
    folder = make_folder("images", sizes=((80, 80),), train=12)
    data = DataConfiguration("imagefolder", str(folder), image_size=72, workers=1)

    def kill(trainer):
        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    at_step(monkeypatch, 8, kill)
    with pytest.raises(DataError, match="a process that reads images was killed, perhaps for"):
        start("run", data=data, batch_size=4)
    assert (checkpoint("run")["epoch"], checkpoint("run")["batch"]) == (1, 0)


def test_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(monkeypatch):
    def poison(trainer):
        with torch.no_grad():
            trainer.network.fc.weight[0, 0] = torch.nan

    at_step(monkeypatch, UPDATES + 4, poison)
    with pytest.raises(RunError) as error:
        start("run")
    kept = Path("run/checkpoints/last.pt")
    assert str(error.value) == (
        f"the training loss is nan in epoch 2, step 4 at fc; the last good checkpoint is {kept}; "
        "try a smaller optimizer.lr, more schedule.warmup_epochs, or optimizer.skip_not_finite true"
    )
    state = checkpoint("run")
    assert (state["epoch"], state["batch"]) == (1, 0)
    assert all(value.isfinite().all() for value in state["network"].values())


def test_loss_that_is_not_finite_before_the_first_checkpoint():
    with pytest.raises(RunError, match=r"in epoch 1, step \d+ at .*; there is no checkpoint yet"):
        start("run", optimizer=OptimizerConfiguration(lr=1e30))
    assert not Path("run/checkpoints").exists()


def test_signal_after_a_loss_that_is_not_finite_saves_nothing(monkeypatch):
    def poison_and_stop(trainer):
        with torch.no_grad():
            trainer.network.fc.weight.fill_(torch.inf)
        signal.raise_signal(signal.SIGTERM)

    at_step(monkeypatch, 4, poison_and_stop)
    with pytest.raises(RunError, match="epoch 1, step 4"):
        start("run")
    assert not Path("run/checkpoints").exists()
