"""A training that is killed again and again ends where an unbroken one ends."""

import os
import random
import re
import signal
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from trainings import assert_same_end, train_alone

from timestepper.training.run import Run

PROCESSES = get_context("forkserver")
PROCESSES.set_forkserver_preload(["timestepper.training.loop", "rich.console"])


def begin(folder, epochs):
    place = str(Path(folder).absolute())
    process = PROCESSES.Process(target=train_alone, args=(place, epochs, torch.get_num_threads()))
    process.start()
    return process


def kill(process, folder, source, longest, *, while_saving):
    """Kill a process at a random moment, or at one at which it writes a file.

    The moment comes after so many seconds at the latest.
    """
    if while_saving:
        before = time.monotonic() + 30
        while process.is_alive() and time.monotonic() < before:
            if any(folder.glob("*.new")) or any(folder.glob("checkpoints/*.new")):
                break
        time.sleep(source.uniform(0, 0.004))
    else:
        process.join(source.uniform(0, longest))
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join()


def require_readable(run):
    """Whatever the moment was: what is there can be read."""
    if run.configuration.exists():
        run.read_configuration()
    if run.checkpoints.exist():
        _, warning = run.checkpoints.load()
        assert warning is None
    if run.metrics.exists():
        run.read_metrics()


def kill_often(times, epochs):
    """Train, kill as often as asked, and compare the end with an unbroken training's."""
    start = time.monotonic()
    unbroken = begin("unbroken", epochs)
    unbroken.join()
    assert unbroken.exitcode == 0
    seconds = time.monotonic() - start
    source = random.Random(0)
    run = Run(Path("run").absolute())
    kills = 0
    while True:
        process = begin("run", epochs)
        if kills == times:
            break
        kill(process, run.folder, source, seconds / times, while_saving=kills % 2 == 1)
        kills += process.exitcode == -signal.SIGKILL
        require_readable(run)
        assert process.exitcode == -signal.SIGKILL, "the training is too short for so many kills"
    process.join()
    assert process.exitcode == 0
    assert_same_end("run", "unbroken")
    shown = Counter(re.findall(r"^epoch +\d+", Path("run.log").read_text(), re.MULTILINE))
    assert set(shown.values()) == {1}
    events = EventAccumulator(str(run.events)).Reload()
    for name in events.Tags()["scalars"]:
        epochs = [point.step for point in events.Scalars(name)]
        assert len(epochs) == len(set(epochs)), name


def test_killed_three_times():
    kill_often(3, epochs=6)


@pytest.mark.slow
def test_killed_a_hundred_times():
    kill_often(100, epochs=200)
