"""Carries out a plan: several trainings at once, in processes of their own or side by side."""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console

from timestepper.errors import TimestepperError
from timestepper.experiments.plan import PlannedRun
from timestepper.files import write_atomically
from timestepper.provenance import commit, provenance
from timestepper.training.build import allows_capture
from timestepper.training.interruption import Interrupted, Signals
from timestepper.training.loop import SomeFailedError, train_side_by_side
from timestepper.training.run import Training

if TYPE_CHECKING:
    from timestepper.training.trained import Trained

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

# Trainings are forked, perhaps hours later, from a process that has loaded the code as it is now.
commit()


def carry_out(planned: Sequence[PlannedRun], jobs: int) -> Iterator[tuple[PlannedRun, str | None]]:
    """Train and measure what is not done yet, and go on after a training that fails.

    Trainings that were interrupted go on where they stopped. On SIGTERM or Ctrl-C all trainings
    save their state before this raises. Those that differ in their seeds run side by side in one
    process where each step is a single CUDA graph, as the kernels of several processes take turns
    on a GPU; otherwise each has its own.

    Args:
        planned: the trainings.
        jobs: how many run at once; they share the CPU's cores, or the GPU.

    Yields:
        Each training when it has ended, and why it failed, or None.

    Raises:
        Interrupted: SIGINT or SIGTERM came; everything is saved.
        OSError: a folder can't be made.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    waiting = [each for each in planned if each.state != "done"]
    make_folders(waiting)
    teams = teams_for(waiting, jobs)
    active: dict[int, tuple[ForkServerProcess, list[PlannedRun]]] = {}
    told = False
    with Signals(SIGNALS) as stop:
        try:
            while active or (teams and not stop.received):
                while teams and not stop.received:
                    if sum(len(team) for _, team in active.values()) + len(teams[0]) > jobs:
                        break
                    team = teams.pop(0)
                    threads = threads_for(jobs, len(team))
                    process = context.Process(target=work, args=(team, threads))
                    process.start()
                    active[process.sentinel] = (process, team)
                for sentinel in wait(list(active), timeout=0.2):
                    process, team = active.pop(sentinel)  # type: ignore[arg-type]
                    process.join()
                    if not stop.received:
                        for each in team:
                            yield each, failure(each, process.exitcode)
                if stop.received and not told:
                    told = True
                    for process, _ in active.values():
                        process.terminate()
        finally:
            # Something went wrong here, or nobody wants to know the rest.
            for process, _ in active.values():
                process.kill()
    if stop.received:
        raise Interrupted(
            stop.received,
            "stopped; what was being trained is saved, and the same command goes on from there",
        )


def teams_for(planned: Sequence[PlannedRun], jobs: int) -> list[list[PlannedRun]]:
    """Sort trainings into those that share a process, up to ``jobs`` of them."""
    teams: list[list[PlannedRun]] = []
    for each in planned:
        alike = (team for team in teams if len(team) < jobs and _differ_in_seeds(team[0], each))
        if team := next(alike, None):
            team.append(each)
        else:
            teams.append([each])
    return teams


def _differ_in_seeds(one: PlannedRun, other: PlannedRun) -> bool:
    """Tell whether two trainings can be made side by side, and gain by it.

    Steps that are not captured wait for the host, which launches for all in a process.
    """
    configuration = one.configuration
    return (
        replace(configuration, seed=other.seed) == other.configuration
        and allows_capture(configuration)
        and configuration.accelerator != "cpu"
        and torch.cuda.is_available()
    )


def make_folders(planned: Sequence[PlannedRun]) -> None:
    """Make the folders of logs and runs, so that what can't be written is said before any starts.

    Raises:
        OSError: one can't be made.
    """
    for each in planned:
        each.log.parent.mkdir(parents=True, exist_ok=True)


def threads_for(jobs: int, team: int = 1) -> int:
    """Share the CPU's cores among trainings that run at once, so many of them in a process."""
    return max(1, team * cores() // jobs)


def cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def failure(planned: PlannedRun, status: int | None) -> str | None:
    """Say why a training failed, by its process's exit status and the end of its log."""
    if status == 0 or planned.state == "done":
        return None
    if status is not None and status < 0:
        return f"its process was ended by {signal.Signals(-status).name}; see {planned.log}"
    text = planned.log.read_text(encoding="utf-8", errors="replace") if planned.log.exists() else ""
    return (text.strip().splitlines() or [f"it ended with status {status}"])[-1]


def work(team: Sequence[PlannedRun], threads: int) -> None:
    """Train and measure, in a process of its own, the output in the log of the first."""
    first = team[0].log
    with first.open("a", encoding="utf-8") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    _print_utf8()
    for each in team[1:]:
        _log(each, f"trained side by side with others, see {first}")
    # Ctrl-C reaches all processes of a terminal's session; this one is told by the first.
    os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    untrained = [each for each in team if each.state in ("new", "started")]
    trainings = [
        Training(each.run, each.configuration, resume=each.state == "started") for each in untrained
    ]
    try:
        if trainings:
            train_side_by_side(trainings, console=Console(width=120))
    except (TimestepperError, Interrupted, OSError) as error:
        reasons = error.reasons if isinstance(error, SomeFailedError) else {}
        for each in untrained:
            if each.state in ("new", "started"):
                _log(each, reasons.get(each.run, str(error)))
        if isinstance(error, Interrupted):
            sys.exit(1)
    for each in team:
        if each.state == "trained":
            _measure(each)
    if any(each.state != "done" for each in team):
        sys.exit(1)


def _print_utf8() -> None:
    """Print as logs are read, whatever the locale: a name that it lacks ends no training."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="replace")


def _log(planned: PlannedRun, line: str) -> None:
    with planned.log.open("a", encoding="utf-8") as log:
        print(line, file=log)


def _measure(planned: PlannedRun) -> None:
    """Make the measurements that are planned, or log why they can't be made."""
    try:
        for file in planned.unmeasured:
            measure = _measure_noise if file == planned.noise_file else _measure_bound
            write_atomically(file, json.dumps(measure(planned)).encode())
    except (TimestepperError, OSError) as error:
        _log(planned, str(error))


def _end_with_parent() -> None:
    """Save and stop if the process that planned this one is killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os.kill(os.getpid(), signal.SIGTERM)


def _measure_noise(planned: PlannedRun) -> dict[str, Any]:
    from timestepper.robustness.noise import noise_curve

    assert planned.noise is not None
    trained = _trained(planned)
    curve = noise_curve(
        trained.network,
        trained.images,
        trained.fabric,
        deviations=planned.noise.deviations,
        draws=planned.noise.draws,
    )
    return {
        **_made_by(trained),
        **asdict(planned.noise),
        "accuracy": curve.accuracy.tolist(),
        "loss": curve.loss.tolist(),
    }


def _measure_bound(planned: PlannedRun) -> dict[str, Any]:
    from timestepper.stability import log10_bound

    trained = _trained(planned)
    return {
        **_made_by(trained),
        "log10_bound": log10_bound(trained.network, trained.some_images(1)),
    }


def _trained(planned: PlannedRun) -> Trained:
    from timestepper.training.trained import load_trained

    return load_trained(planned.run, configuration=planned.configuration)


def _made_by(trained: Trained) -> dict[str, Any]:
    return {"made_by": provenance(trained.fabric.device, command="timestepper reproduce")}
