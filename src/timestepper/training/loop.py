"""Trainings from start to end: one, or several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace

from lightning_fabric import Fabric
from rich.console import Console

from timestepper.data import DataSet
from timestepper.errors import ConfigurationError, RunError, TimestepperError
from timestepper.training.build import build_data, build_fabric
from timestepper.training.configuration import Configuration
from timestepper.training.determinism import deterministic_kernels
from timestepper.training.interruption import Interrupted, Signals, leave_processes
from timestepper.training.memory import enough_memory
from timestepper.training.progress import Bars, last_line, say, summary
from timestepper.training.results import write_report, write_results
from timestepper.training.run import Run, Training
from timestepper.training.trained import Trained
from timestepper.training.trainer import Trainer
from timestepper.training.turns import Turns, compiled_by_themselves


def train(
    run: Run, configuration: Configuration, *, resume: bool, console: Console, report: bool = False
) -> None:
    """Train a network and leave everything about it in the run's folder.

    Args:
        run: the run's folder, as for :class:`Training`.
        configuration: what to train.
        resume: go on from the last checkpoint.
        console: where progress is shown.
        report: write the report at the end, too.

    Raises:
        TimestepperError: a value, a file or the run's folder is not as it should be, memory is too
            small, or the loss has become infinite or not a number.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    train_side_by_side([Training(run, configuration, resume)], console=console, report=report)


def train_side_by_side(
    trainings: Sequence[Training], *, console: Console, report: bool = False
) -> None:
    """Train networks that differ in their seeds in turns, a step each, in this process.

    Each training is what it would be alone. A small network leaves much of a GPU idle, and several
    share it without waiting for each other; on a CPU nothing is gained. One that fails does not
    stop the others.

    Args:
        trainings: one or more.
        console: where progress is shown.
        report: write each run's report at the end, too.

    Raises:
        TimestepperError: as for :func:`train`; the trainings differ in more than their seeds, or
            several are to run on several processes.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    for each in trainings:
        if not each.resume:
            each.run.require_new()
    configuration = _what_they_share(trainings)
    fabric = build_fabric(configuration)
    if len(trainings) > 1 and fabric.world_size > 1:
        raise ConfigurationError(
            f"{len(trainings)} trainings side by side can't share {fabric.world_size} processes; "
            "start them without torchrun, or one at a time"
        )
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    try:
        with ExitStack() as stack:
            stack.enter_context(deterministic_kernels(configuration.deterministic))
            stack.enter_context(enough_memory())
            if configuration.compile:
                stack.enter_context(compiled_by_themselves(len(trainings)))
            images = build_data(configuration)
            lanes = [_Lane(each, images, fabric, alone=len(trainings) == 1) for each in trainings]
            _take_turns(lanes, console)
    except Interrupted:
        leave_processes(fabric)
        raise
    leave_processes(fabric)
    for lane in lanes:
        if report and fabric.is_global_zero and lane.trained:
            say(console, lane.name + write_report(lane.run, lane.trained))
    rows = [lane.trainer.history[-1] for lane in lanes if lane.trained]
    if len(rows) > 1:
        say(console, summary(rows))
    failed = [lane for lane in lanes if lane.error]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(lanes)} trainings failed, {failed[0].name}{failed[0].error}"
        )


def _what_they_share(trainings: Sequence[Training]) -> Configuration:
    """Return the configuration of the first one, if all have the same but for the seed."""
    first = trainings[0]
    for each in trainings[1:]:
        if replace(each.configuration, seed=first.configuration.seed) != first.configuration:
            raise ConfigurationError(
                f"{first.run.folder} and {each.run.folder} differ in more than their seeds, and "
                "can't be trained side by side; use a command for each"
            )
    return first.configuration


_END = object()


class _Lane:
    """One of the trainings that take turns."""

    def __init__(self, training: Training, images: DataSet, fabric: Fabric, *, alone: bool) -> None:
        self.run = training.run
        self.resume = training.resume
        self.name = "" if alone else f"seed {training.configuration.seed}: "
        self.turns = None if alone else Turns(fabric.device)
        self.trained: Trained | None = None
        self.error: TimestepperError | None = None
        with self._turn():
            self.trainer = Trainer(training.run, training.configuration, images, fabric)

    def _turn(self) -> AbstractContextManager[None]:
        return self.turns.turn() if self.turns else nullcontext()

    def begin(self, signals: Signals, bars: Bars, console: Console) -> Generator[None]:
        """Get ready for :meth:`go_on`."""
        self._steps = self._train(signals, bars, console)
        return self._steps

    def go_on(self) -> bool:
        """Make a step; tell whether it was not the end.

        Raises:
            Interrupted: a signal came; everything is saved.
            TimestepperError: the training failed, and is the only one.
        """
        try:
            with self._turn():
                return next(self._steps, _END) is not _END
        except TimestepperError as error:
            if self.turns is None:
                raise
            self.error = error
            return False

    def _train(self, signals: Signals, bars: Bars, console: Console) -> Generator[None]:
        """Train from the start or from the last checkpoint on, and write the results."""
        run, trainer = self.run, self.trainer
        fabric = trainer.fabric
        with run.writing() if fabric.is_global_zero else nullcontext():
            if not self.resume:
                if fabric.is_global_zero:
                    run.create(trainer.configuration, trainer.images, fabric.device)
                fabric.barrier()
            elif run.checkpoints.exist():
                state, warning = run.checkpoints.load()
                if warning:
                    say(console, f"{self.name}warning: {warning}")
                trainer.restore(state)
            else:
                stopped = "it stopped before its first checkpoint: starting at the beginning"
                say(console, self.name + stopped)
                if fabric.is_global_zero:
                    run.start(trainer.images, fabric.device)
            yield from trainer.fit(signals, bars, self.name)
            network = trainer.trained.eval()
            self.trained = Trained(
                network, trainer.configuration, trainer.images, fabric, trainer.epoch, None
            )
            if fabric.is_global_zero:
                write_results(run, self.trained, trainer.history)
                say(console, self.name + last_line(trainer.history[-1], run))
        if self.turns:
            self.turns.wait()


def _take_turns(lanes: Sequence[_Lane], console: Console) -> None:
    """Train all until each has ended or failed, or all were told to stop."""
    stops: list[tuple[Run, Interrupted]] = []
    with ExitStack() as stack:
        signals = stack.enter_context(Signals())
        bars = stack.enter_context(Bars(console))
        for lane in lanes:
            stack.enter_context(closing(lane.begin(signals, bars, console)))
        waiting = deque(lanes)
        while waiting:
            lane = waiting.popleft()
            try:
                if lane.go_on():
                    waiting.append(lane)
                elif lane.error:
                    say(console, f"{lane.name}{lane.error}")
            except Interrupted as stop:
                stops.append((lane.run, stop))
    if len(stops) == 1:
        raise stops[0][1]
    if stops:
        folders = " ".join(str(run.folder) for run, _ in stops)
        raise Interrupted(
            stops[0][1].number,
            f"stopped {len(stops)} trainings; everything is saved, continue with: timestepper "
            f"train --resume {folders}",
        )
