"""Plans carried out: what is done stays, what stopped goes on, what fails holds up nothing."""

from __future__ import annotations

import dataclasses
import io
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from made import finish
from rich.console import Console

from timestepper.errors import RunError
from timestepper.experiments import cost, runner
from timestepper.experiments.cost import Estimator
from timestepper.experiments.outcomes import read_outcomes
from timestepper.experiments.plan import plan
from timestepper.experiments.study import Noise, Scale
from timestepper.robustness.noise import noise_curve
from timestepper.stability import measure_stability
from timestepper.training.interruption import Interrupted
from timestepper.training.trained import load_trained

SMOKE = Scale(("smoke",), {"8": "cifar_resnet8"}, 1)


def planned_runs(methods, scale=SMOKE, **changes):
    return [
        dataclasses.replace(each, configuration=dataclasses.replace(each.configuration, **changes))
        for each in plan(methods, scale, Path("runs"), None)
    ]


def with_setting(planned, **changes):
    configuration = dataclasses.replace(planned.configuration, **changes)
    return dataclasses.replace(planned, configuration=configuration)


def test_goes_on_after_a_failed_run_and_leaves_what_is_done_alone():
    first, second, third = planned_runs(("plain", "tsc-indp", "tsc-lstm"))
    network = dataclasses.replace(first.configuration.network, options={"depht": 3})
    broken = with_setting(first, network=network)
    ended = list(runner.carry_out([broken, second, third], jobs=1))
    assert [each.name for each, _ in ended] == [broken.name, second.name, third.name]
    assert "has no option 'depht'" in ended[0][1]
    assert "Traceback" not in broken.log.read_text()
    assert [failure for _, failure in ended[1:]] == [None, None]
    assert [each.state for each in (second, third)] == ["done", "done"]
    assert "test accuracy" in second.log.read_text()
    assert [o.planned.method for o in read_outcomes([second, third])] == ["tsc-indp", "tsc-lstm"]
    before = second.run.folded.stat().st_mtime_ns
    assert list(runner.carry_out([second, third], jobs=2)) == []
    assert second.run.folded.stat().st_mtime_ns == before


def test_a_process_that_is_killed_is_a_failure_with_a_name_and_can_go_on():
    (planned,) = planned_runs(("plain",), epochs=200)
    killed = threading.Thread(target=_kill_when_running, args=(planned, signal.SIGKILL))
    killed.start()
    ((_, failure),) = runner.carry_out([planned], jobs=1)
    killed.join()
    assert failure == f"its process was ended by SIGKILL; see {planned.log}"
    assert planned.state == "started"
    epochs = planned.epochs_done
    assert 0 < epochs < 200


def _kill_when_running(planned, number, whom=None):
    while not planned.run.metrics.exists():
        time.sleep(0.05)
    (process,) = multiprocessing.active_children()
    os.kill(whom or process.pid, number)


def test_a_signal_saves_everything_and_the_same_plan_goes_on():
    planned = planned_runs(("plain", "tsc-lstm"), epochs=60)
    stopper = threading.Thread(
        target=_kill_when_running, args=(planned[0], signal.SIGTERM, os.getpid())
    )
    stopper.start()
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        list(runner.carry_out(planned, jobs=1))
    stopper.join()
    assert [each.state for each in planned] == ["started", "new"]
    assert 0 < planned[0].epochs_done < 60
    assert "everything is saved" in planned[0].log.read_text()


def test_an_interrupted_training_goes_on_to_the_same_weights():
    (whole,) = planned_runs(("tsc-lstm",), epochs=2)
    assert list(runner.carry_out([whole], jobs=2)) == [(whole, None)]
    weights = whole.run.folded.read_bytes()
    # As if it had stopped after its first epoch: what the second one wrote is gone.
    whole.run.folded.unlink()
    whole.run.checkpoints.last.unlink()
    assert whole.state == "started"
    assert list(runner.carry_out([whole], jobs=2)) == [(whole, None)]
    assert whole.run.folded.read_bytes() == weights
    commits = whole.run.provenance.read_text().count("  commit: ")
    assert commits == 2


def test_measurement_under_noise_is_made_once_and_later_if_need_be():
    noise = Noise((0.0, 0.5), 2)
    (planned,) = planned_runs(("tsc-lstm",))
    assert list(runner.carry_out([planned], jobs=1)) == [(planned, None)]
    noisy = dataclasses.replace(planned, noise=noise)
    assert noisy.state == "trained"
    before = planned.run.folded.stat().st_mtime_ns
    assert list(runner.carry_out([noisy], jobs=1)) == [(noisy, None)]
    assert planned.run.folded.stat().st_mtime_ns == before
    trained = load_trained(planned.run)
    curve = noise_curve(
        trained.network, trained.images, trained.fabric, deviations=(0.0, 0.5), draws=2
    )
    kept = json.loads(noisy.noise_file.read_text())
    torch.testing.assert_close(torch.tensor(kept["accuracy"], dtype=torch.float64), curve.accuracy)
    (outcome,) = read_outcomes([noisy])
    assert outcome.loss_under_noise(1) == pytest.approx(sum(draw[1] for draw in kept["loss"]) / 2)
    assert 100 - outcome.accuracy_under_noise(0) == pytest.approx(outcome.error)
    noisy.noise_file.write_text("{")
    (outcome,) = read_outcomes([noisy])
    with pytest.raises(RunError, match=r"noise-\w+\.json is broken; remove it"):
        outcome.loss_under_noise(0)


def test_the_bound_is_computed_once_the_training_is_done():
    (planned,) = planned_runs(("tsc-lstm",))
    bounded = dataclasses.replace(planned, bound=True)
    assert list(runner.carry_out([bounded], jobs=1)) == [(bounded, None)]
    assert bounded.state == "done"
    trained = load_trained(planned.run)
    expected = measure_stability(trained.network, trained.some_images(1), directions=1).bound
    assert expected is not None
    (outcome,) = read_outcomes([bounded])
    assert outcome.log10_bound == pytest.approx(expected, rel=1e-6)


@pytest.mark.slow
def test_trainings_end_when_the_process_that_planned_them_is_killed():
    code = (
        "from pathlib import Path\n"
        "from timestepper.experiments.plan import plan\n"
        "from timestepper.experiments.runner import carry_out\n"
        "from timestepper.experiments.study import Scale\n"
        "scale = Scale(('quick-digits',), {'20': 'cifar_resnet20'}, 1)\n"
        "if __name__ == '__main__':\n"
        "    list(carry_out(plan(('plain',), scale, Path('runs'), None), 1))\n"
    )
    Path("planner.py").write_text(code)
    planner = subprocess.Popen([sys.executable, "planner.py"])
    (planned,) = plan(
        ("plain",), Scale(("quick-digits",), {"20": "cifar_resnet20"}, 1), Path("runs"), None
    )
    while not planned.run.metrics.exists():
        assert planner.poll() is None
        time.sleep(0.05)
    planner.kill()
    planner.wait()
    deadline = time.monotonic() + 60
    while "everything is saved" not in planned.log.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert planned.state == "started"


def test_time_is_that_of_the_cores_there_are(monkeypatch):
    monkeypatch.setattr(cost, "cores", lambda: 4)
    few, many = Estimator(1), Estimator(64)
    planned = planned_runs(("plain", "tsc-indp"))
    for estimator in (few, many):
        estimator.remaining = lambda each: 3600.0
        estimator._on_cpu = True
    assert few.hours(planned) == 2
    assert many.hours(planned) == 1
    monkeypatch.setattr(cost, "cores", lambda: 1)
    assert many.hours(planned) == 2
    monkeypatch.setattr(cost, "cores", lambda: 4)
    many._on_cpu = False
    assert many.hours(planned) == 2
    assert many.hours([]) == 0


def test_logs_are_utf8_whatever_the_locale(monkeypatch):
    log = io.BytesIO()
    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, io.TextIOWrapper(log, "ascii", line_buffering=True))
    runner._print_utf8()
    Console(width=60).print("läufe/γ \udcff")
    print("läufe", file=sys.stderr)
    assert log.getvalue().decode() == "läufe/γ ?\nläufe\n"


def test_estimates_follow_epochs_and_what_is_done():
    estimator = Estimator(1)
    (one,) = planned_runs(("plain",))
    ten = with_setting(one, epochs=10)
    epoch = estimator.remaining(one)
    assert epoch > 0
    assert estimator.remaining(ten) == pytest.approx(10 * epoch)
    ten.run.create(ten.configuration, estimator.images(ten.configuration), torch.device("cpu"))
    ten.run.metrics.write_text("epoch\n" + "\n".join("1234") + "\n")
    assert estimator.remaining(ten) == pytest.approx(6 * epoch)
    finish(ten)
    assert estimator.remaining(ten) == 0


TWO_SEEDS = Scale(("smoke",), {"8": "cifar_resnet8"}, 2, Noise((0.5,), 1))


@pytest.fixture
def on_a_gpu(monkeypatch):
    """As far as the plan is concerned; the processes that train have none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)


@pytest.fixture
def captured(on_a_gpu, monkeypatch):
    """Without compiling anything."""
    monkeypatch.setattr(runner, "allows_capture", lambda configuration: True)


def test_teams_on_a_gpu(on_a_gpu):
    planned = planned_runs(("plain", "tsc-lstm"), dataclasses.replace(TWO_SEEDS, seeds=3))

    def names(jobs, **changes):
        runs = [with_setting(each, compile=True, **changes) for each in planned]
        return [[f"{e.method}{e.seed}" for e in team] for team in runner.teams_for(runs, jobs)]

    alone = [[f"{each.method}{each.seed}"] for each in planned]
    assert names(1) == alone
    assert names(8, accelerator="cpu") == alone
    skipping = dataclasses.replace(planned[0].configuration.optimizer, skip_not_finite=True)
    assert names(8, optimizer=skipping) == alone
    assert [len(team) for team in runner.teams_for(planned, 8)] == [1] * 6  # not compiled
    assert names(8) == [["plain0", "plain1", "plain2"], ["tsc-lstm0", "tsc-lstm1", "tsc-lstm2"]]
    pairs = [["plain0", "plain1"], ["tsc-lstm0", "tsc-lstm1"], ["plain2"], ["tsc-lstm2"]]
    assert names(2) == pairs


def test_teams_on_a_cpu():
    planned = planned_runs(("plain",), TWO_SEEDS)
    assert runner.teams_for(planned, 8) == [[each] for each in planned]


@pytest.mark.slow
def test_side_by_side_they_are_what_they_are_alone(captured):
    planned = planned_runs(("tsc-lstm",), TWO_SEEDS)
    assert list(runner.carry_out(planned, jobs=2)) == [(each, None) for each in planned]
    assert [each.state for each in planned] == ["done", "done"]
    assert "2 trainings: test accuracy" in planned[0].log.read_text()
    pointer = f"trained side by side with others, see {planned[0].log}\n"
    assert planned[1].log.read_text() == pointer
    made = [planned[1].run.folded.read_bytes(), json.loads(planned[1].noise_file.read_text())]
    shutil.rmtree(planned[1].run.folder)
    assert list(runner.carry_out(planned[1:], jobs=1)) == [(planned[1], None)]  # as many threads
    assert planned[1].run.folded.read_bytes() == made[0]
    again = json.loads(planned[1].noise_file.read_text())
    assert again["accuracy"] == made[1]["accuracy"]


@pytest.mark.slow
def test_those_that_fail_side_by_side_hold_up_nothing(captured):
    planned = planned_runs(("plain",), dataclasses.replace(TWO_SEEDS, seeds=3))
    with planned[1].run.writing(), planned[2].run.writing():
        ended = [failure for _, failure in runner.carry_out(planned, jobs=3)]
    assert ended[0] is None
    for each, failure in zip(planned[1:], ended[1:], strict=True):
        assert failure.startswith(f"another process is training in {each.run.folder}; ")
    assert [each.state for each in planned] == ["done", "new", "new"]
    assert list(runner.carry_out(planned, jobs=3)) == [(each, None) for each in planned[1:]]


def test_jobs_are_trainings(captured, monkeypatch):
    """However they are distributed over processes."""
    planned = planned_runs(("plain", "tsc-lstm"), TWO_SEEDS)
    teams = [planned[::2], planned[1:2], planned[3:]]
    monkeypatch.setattr(runner, "teams_for", lambda *_: teams.copy())
    at_once = []

    def look(sentinels, timeout):
        at_once.append(sum(each.run.is_in_training() for each in planned))
        return wait(sentinels, timeout)

    monkeypatch.setattr(runner, "wait", look)
    assert [failure for _, failure in runner.carry_out(planned, jobs=3)] == [None] * 4
    assert max(at_once) == 3


def test_a_signal_saves_all_that_run_side_by_side(captured):
    planned = planned_runs(("plain",), TWO_SEEDS, epochs=200)
    stopper = threading.Thread(
        target=_kill_when_running, args=(planned[0], signal.SIGTERM, os.getpid())
    )
    stopper.start()
    with pytest.raises(Interrupted, match="the same command goes on from there"):
        list(runner.carry_out(planned, jobs=2))
    stopper.join()
    assert [each.state for each in planned] == ["started", "started"]
    assert all("everything is saved" in each.log.read_text() for each in planned)
