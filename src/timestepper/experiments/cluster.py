"""Carries out a plan on a cluster: each training is a job of submitit's, of Slurm or here."""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, fields
from multiprocessing.context import ForkProcess
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch

from timestepper.errors import ConfigurationError, RunError, did_you_mean
from timestepper.experiments.plan import PlannedRun
from timestepper.experiments.runner import SIGNALS, failure, make_folders, threads_for, work
from timestepper.files import write_atomically
from timestepper.training.interruption import Interrupted, Signals

if TYPE_CHECKING:
    from submitit import Executor, Job
    from submitit.helpers import DelayedSubmission

PROGRAMS = ("sbatch", "srun", "sacct", "scontrol")
"""What submitit calls of Slurm."""

OWN_OPTIONS = (
    *("job_name", "time", "partition", "cpus_per_task", "gpus_per_node", "num_gpus"),
    *("array_parallelism", "nodes", "ntasks_per_node"),
)
"""Options of submitit that are settings here, or of no use to a training in one process."""

TURNS = 1000
"""How often a training is queued again at its time limit; each time it gets further."""


@dataclass(frozen=True)
class ClusterConfiguration:
    """Where an experiment's trainings run.

    Args:
        name: slurm; or local, jobs on this machine, for which only hours matters of the rest. By
            default trainings are processes of the command itself.
        partition: Slurm's partition; by default its own choice.
        hours: time limit of a job; a training that takes longer saves and is queued again.
        cpus: cores for each training.
        gpus: GPUs for each training, 0 or 1.
        options: other settings of submitit's Slurm executor, such as {account: mine, mem: 32GB}.
    """

    name: Literal["slurm", "local"] | None = None
    partition: str | None = None
    hours: float = 24.0
    cpus: int = 4
    gpus: int = 1
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, value, is_possible, demand in (
            ("hours", self.hours, 0.1 <= self.hours < math.inf, "at least 0.1 and finite"),
            ("cpus", self.cpus, self.cpus >= 1, "at least 1"),
            ("gpus", self.gpus, self.gpus in (0, 1), "0 or 1, as a training uses one"),
        ):
            if not is_possible:
                raise ConfigurationError(f"cluster.{name} is {value}; it must be {demand}")


def check_cluster(cluster: ClusterConfiguration) -> None:
    """Look whether jobs can be submitted from here, before anything is done.

    Raises:
        ConfigurationError: submitit or Slurm is missing, or a setting is unknown or impossible.
    """
    if cluster.name is None:
        if cluster != ClusterConfiguration():
            raise ConfigurationError(
                "there are settings of a cluster, but none is named; add --cluster.name slurm"
            )
        return
    try:
        from submitit import SlurmExecutor
    except ImportError as error:
        raise ConfigurationError(
            "jobs can't be submitted: submitit is not installed; install the extra with: "
            "pip install 'timestepper[cluster]'"
        ) from error
    if cluster.name == "local":
        return
    for program in PROGRAMS:
        if shutil.which(program) is None:
            raise ConfigurationError(
                f"Slurm's {program} is not on the PATH; run this where jobs are submitted, or take "
                "--cluster.name local"
            )
    known = SlurmExecutor._valid_parameters() - set(OWN_OPTIONS)
    for name in cluster.options:
        if name not in known:
            settings = [f"cluster.{entry.name}" for entry in fields(cluster)]
            options = [f"cluster.options.{option}" for option in sorted(known)]
            wrong = f"cluster.options.{name}"
            hint = did_you_mean(wrong, settings + options)
            raise ConfigurationError(f"there is no setting '{wrong}'{hint}")
    try:
        _executor(cluster, Path(), 1)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigurationError(f"cluster.options is {cluster.options}: {reason}") from error


def carry_out_on(
    cluster: ClusterConfiguration, planned: Sequence[PlannedRun], jobs: int, folder: Path
) -> Iterator[tuple[PlannedRun, str | None]]:
    """Train and measure what is not done yet in jobs, and wait for them.

    What an earlier job still does, or waits to do, is waited for and not submitted again. On
    SIGTERM or Ctrl-C local jobs save their state before this raises; those of Slurm go on.

    Args:
        cluster: where; :func:`check_cluster` has looked at it.
        planned: the trainings.
        jobs: how many run at once; local ones share the CPU's cores.
        folder: where all runs are. What submitit writes goes to ``cluster`` in it.

    Yields:
        Each training when its job is over, and why it failed, or None.

    Raises:
        RunError: Slurm doesn't take the jobs.
        Interrupted: SIGINT, SIGTERM or SIGHUP came.
    """
    is_local = cluster.name == "local"
    folder = folder / "cluster"
    executor = _executor(cluster, folder, jobs)
    threads = threads_for(jobs) if is_local else cluster.cpus
    to_do = [each for each in planned if each.state != "done"]
    make_folders(to_do)
    active, waiting = _sort_out(to_do, folder, is_local)
    with Signals(SIGNALS) as stop:
        try:
            while (active or waiting) and not stop.received:
                free = max(0, jobs - len(active)) if is_local else len(waiting)
                if waiting[:free]:
                    active += _submit(executor, waiting[:free], threads, folder)
                    waiting = waiting[free:]
                time.sleep(1)
                for each in [each for each in active if each.is_over()]:
                    active.remove(each)
                    yield each.planned, each.failure()
            while is_local and active:
                active = [each for each in active if each.tell_to_stop()]
                time.sleep(1)
        finally:
            # Something went wrong here, or nobody wants to know the rest.
            if is_local:
                for each in active:
                    each.tell_to_stop()
    if stop.received:
        raise Interrupted(
            stop.received,
            "stopped; what was being trained is saved, and the same command goes on from there"
            if is_local
            else "stopped waiting; the jobs go on, and the same command waits for them again",
        )


@dataclass(frozen=True, eq=False)
class _Submitted:
    """A training that is a job's by now.

    Attributes:
        planned: the training.
        job: the job; None where only the lock tells that some process trains.
    """

    planned: PlannedRun
    job: Job[None] | None

    def is_over(self) -> bool:
        return self.job.done() if self.job is not None else not self.planned.run.is_in_training()

    def failure(self) -> str | None:
        """Say why it failed; whether it did, only the run's folder tells."""
        if self.planned.state == "done":
            return None
        if self.job is None or self.job.paths.result_pickle.exists():
            return failure(self.planned, 1)
        name = self.job.paths.stderr.name
        return (
            f"job {self.job.job_id} ended before it had finished ({self.job.state}); see "
            f"{self.planned.log} and {name} in the folder cluster of the runs"
        )

    def tell_to_stop(self) -> bool:
        """Have a local job save and end; return whether it still runs.

        A job that has just begun doesn't listen yet, and has to be told again.
        """
        if self.job is None or self.job.done():
            return False
        # Its number is its first process's, which passes SIGTERM on.
        os.kill(int(self.job.job_id), signal.SIGTERM)
        return True


class TrainingJob:
    """What a job does, as submitit calls it: the training is a process of its own.

    Slurm says with SIGUSR2 that the time is nearly over. Then submitit calls :meth:`checkpoint`
    and queues the job again.

    Args:
        planned: the training.
        threads: how many threads it computes with.
        local_gpus: on this machine, the GPUs that the job may see, as in CUDA_VISIBLE_DEVICES;
            None on Slurm, which sees to it.
    """

    def __init__(self, planned: PlannedRun, threads: int, local_gpus: str | None) -> None:
        self.planned = planned
        self.threads = threads
        self.local_gpus = local_gpus
        self._process: ForkProcess | None = None
        self._told = False

    def __call__(self) -> None:
        """Train and measure.

        Raises:
            RunError: it failed; the end of the training's log says why.
        """
        if self.local_gpus is not None:
            # submitit would show all jobs the first GPU.
            os.environ["CUDA_VISIBLE_DEVICES"] = self.local_gpus
        signal.signal(signal.SIGTERM, self._note)
        # Nothing has been computed in this process yet, which makes forking it safe.
        context = multiprocessing.get_context("fork")
        self._process = context.Process(target=_train, args=(self.planned, self.threads))
        self._process.start()
        self._wait()
        status = self._process.exitcode
        while status and self._told and self.local_gpus is None:
            # It is saved. If this job is to be preempted and not cancelled, Slurm queues it again
            # after killing it, but not if it ends by itself.
            signal.pause()
        reason = failure(self.planned, status)
        if reason is not None:
            if status is not None and status < 0:
                with self.planned.log.open("a", encoding="utf-8") as log:
                    log.write(f"{reason}\n")
            raise RunError(reason)

    def checkpoint(self) -> DelayedSubmission:
        """Have the training save and end; return what goes on with it."""
        from submitit.helpers import DelayedSubmission

        self._told = True
        self._wait()
        return DelayedSubmission(TrainingJob(self.planned, self.threads, self.local_gpus))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._told = True

    def _wait(self) -> None:
        """Wait for the end of the training, which is told to stop as often as it takes."""
        while self._process is not None and self._process.is_alive():
            if self._told and self.planned.state == "trained":
                # Measurements save nothing, and are made anew.
                self._process.kill()
            elif self._told:
                self._process.terminate()
            self._process.join(0.5)


def _train(planned: PlannedRun, threads: int) -> None:
    """Train and measure, deaf to signals but while a training can save.

    Slurm may signal this process, too, or only its parent; so more than one comes.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    # Not ignored, which a training would leave so.
    signal.signal(signal.SIGTERM, lambda *_: None)
    work([planned], threads)


def _executor(cluster: ClusterConfiguration, folder: Path, jobs: int) -> Executor:
    """Make what submits jobs."""
    from submitit import LocalExecutor, SlurmExecutor

    executor: Executor
    if cluster.name == "local":
        executor = LocalExecutor(folder, max_num_timeout=TURNS)
        executor.update_parameters(timeout_min=60 * cluster.hours)
    else:
        executor = SlurmExecutor(folder, max_num_timeout=TURNS)
        executor.update_parameters(
            job_name="timestepper",
            partition=cluster.partition,
            time=math.ceil(60 * cluster.hours),
            cpus_per_task=cluster.cpus,
            gpus_per_node=cluster.gpus or None,
            array_parallelism=jobs,
            **cluster.options,
        )
    return executor


def _sort_out(
    to_do: Sequence[PlannedRun], folder: Path, is_local: bool
) -> tuple[list[_Submitted], list[PlannedRun]]:
    """Tell trainings that are jobs of an earlier command from those that have to be submitted."""
    from submitit import SlurmJob

    records = {} if is_local else {each.name: _record(each, folder) for each in to_do}
    # All are made before the first is asked for: submitit asks Slurm about all at once.
    jobs: dict[str, Job[None]] = {
        name: SlurmJob(folder, record.read_text(encoding="utf-8"))
        for name, record in records.items()
        if record.exists()
    }
    submitted, waiting = [], []
    for each in to_do:
        job = jobs.get(each.name)
        if job is not None and not job.done():
            submitted.append(_Submitted(each, job))
        elif each.run.is_in_training():
            submitted.append(_Submitted(each, None))
        else:
            waiting.append(each)
    return submitted, waiting


def _submit(
    executor: Executor, planned: Sequence[PlannedRun], threads: int, folder: Path
) -> list[_Submitted]:
    """Submit trainings, several to Slurm as one array.

    Raises:
        RunError: Slurm refuses them.
    """
    from submitit import LocalExecutor

    gpus = None
    if isinstance(executor, LocalExecutor):
        every = ",".join(map(str, range(torch.cuda.device_count())))
        gpus = os.environ.get("CUDA_VISIBLE_DEVICES", every)
    # A terminal sends Ctrl-C to all its processes; local jobs are told by this one.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        # submitit prints what sbatch says before it raises it.
        with contextlib.redirect_stderr(io.StringIO()):
            jobs: list[Job[None]] = executor.submit_array(
                [TrainingJob(each, threads, gpus) for each in planned]
            )
    except RuntimeError as error:
        reason = (str(error).strip().splitlines() or ["it did not say why"])[-1]
        raise RunError(f"Slurm did not take the jobs: {reason}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if gpus is None:
        for each, job in zip(planned, jobs, strict=True):
            write_atomically(_record(each, folder), job.job_id.encode())
    return [_Submitted(each, job) for each, job in zip(planned, jobs, strict=True)]


def _record(planned: PlannedRun, folder: Path) -> Path:
    """Return where the number of a training's last job of Slurm's is kept."""
    return folder / f"{planned.name.replace('/', '-')}.job"
