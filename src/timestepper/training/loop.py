"""Trainings from start to end: one, or several side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace

from lightning_fabric import Fabric
from rich.console import Console

from timestepper.data import DataSet
from timestepper.data.workers import living_workers
from timestepper.errors import ConfigurationError, RunError, TimestepperError
from timestepper.training.build import build_data, build_fabric, captures_steps
from timestepper.training.commands import resuming
from timestepper.training.configuration import Configuration
from timestepper.training.determinism import deterministic_kernels
from timestepper.training.interruption import Interrupted, Signals, leave_processes
from timestepper.training.memory import enough_memory
from timestepper.training.progress import Bars, last_line, say, summary
from timestepper.training.results import write_report, write_results
from timestepper.training.run import Run, Training
from timestepper.training.same_checkpoint import same_checkpoint
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
            small, a process that reads images was killed, or the loss has become infinite or not a
            number.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    train_side_by_side([Training(run, configuration, resume)], console=console, report=report)


class SomeFailedError(RunError):
    """Some of several trainings failed.

    Attributes:
        reasons: why, for each of them.
    """

    def __init__(self, reasons: Mapping[Run, str], count: int) -> None:
        run, reason = next(iter(reasons.items()))
        super().__init__(f"{len(reasons)} of {count} trainings failed, {run.folder}: {reason}")
        self.reasons = reasons


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
            can't share a process.
        SomeFailedError: some of several failed.
        Interrupted: SIGINT or SIGTERM came; everything is saved.
    """
    for each in trainings:
        if not each.resume:
            each.run.require_new()
    configuration = _what_they_share(trainings)
    fabric = build_fabric(configuration)
    alone = len(trainings) == 1
    if not alone:
        _require_one_process(configuration, fabric)
    if not fabric.is_global_zero:
        console = Console(quiet=True)
    with ExitStack() as stack:
        stack.enter_context(deterministic_kernels(configuration.deterministic))
        if configuration.compile:
            stack.enter_context(compiled_by_themselves(len(trainings)))
        images = build_data(configuration)
        lanes = [_Lane(each, images, fabric, alone=alone) for each in trainings]
        stop = _take_turns(lanes, console)
    leave_processes(fabric)
    for lane in lanes:
        if report and fabric.is_global_zero and lane.trained:
            say(console, lane.name + write_report(lane.run, lane.trained))
    if stop:
        raise stop
    if len(rows := [lane.last_row for lane in lanes if lane.last_row]) > 1:
        say(console, summary(rows))
    if reasons := {lane.run: lane.error for lane in lanes if lane.error}:
        raise SomeFailedError(reasons, len(lanes))


def _what_they_share(trainings: Sequence[Training]) -> Configuration:
    """Return the configuration of the first one, if all have the same but for the seed."""
    first = trainings[0]
    runs: dict[int, Run] = {}
    for each in trainings:
        pair = f"{first.run.folder} and {each.run.folder}"
        if replace(each.configuration, seed=first.configuration.seed) != first.configuration:
            raise ConfigurationError(
                f"{pair} differ in more than their seeds, and can't be trained side by side; use a "
                "command for each"
            )
        other = runs.setdefault(each.configuration.seed, each.run)
        if other is not each.run:
            raise ConfigurationError(
                f"{other.folder} and {each.run.folder} have the same seed; use a command for each"
            )
    return first.configuration


def _require_one_process(configuration: Configuration, fabric: Fabric) -> None:
    """Make sure that several trainings can take turns."""
    if fabric.world_size > 1:
        raise ConfigurationError(
            f"several trainings side by side can't share {fabric.world_size} processes; start them "
            "without torchrun, or one at a time"
        )
    on_gpu = fabric.device.type == "cuda"
    if on_gpu and configuration.compile and not captures_steps(configuration, fabric):
        # torch.compile's own CUDA graphs share their memory, and count on a single stream.
        raise ConfigurationError(
            "on a GPU compiled trainings with a penalty or skip_not_finite can't be side by side; "
            "set compile to false, or use a command for each"
        )


_END = object()


class _Lane:
    """One of the trainings that take turns; what it takes is given back when it has ended."""

    def __init__(self, training: Training, images: DataSet, fabric: Fabric, *, alone: bool) -> None:
        self.run = training.run
        self.name = "" if alone else f"seed {training.configuration.seed}: "
        self.turns = None if alone else Turns(fabric.device)
        self.trained: Trained | None = None
        self.last_row: dict[str, float] | None = None
        self.error: str | None = None
        self._training = training
        self._fabric = fabric
        self._steps: Iterator[None] = iter(())
        with self._turn():
            self._trainer = Trainer(training.run, training.configuration, images, fabric)

    @contextmanager
    def _turn(self) -> Iterator[None]:
        turn = self.turns.turn() if self.turns else nullcontext()
        with enough_memory(), living_workers(), turn:
            yield

    def begin(self, signals: Signals, bars: Bars, console: Console) -> Generator[None]:
        """Get ready for :meth:`go_on`."""
        steps = self._train(self._trainer, signals, bars, console)
        self._steps = steps
        return steps

    def go_on(self) -> bool:
        """Make a step; tell whether it was not the end.

        Raises:
            Interrupted: a signal came; everything is saved.
            TimestepperError: the training failed, and is the only one.
        """
        goes_on = False
        try:
            with self._turn():
                goes_on = next(self._steps, _END) is not _END
        except TimestepperError as error:
            if self.turns is None:
                raise
            # Not the error itself, which keeps all that was there when it was raised.
            self.error = str(error)
        finally:
            if not goes_on:
                self._steps = iter(())
                del self._trainer
        return goes_on

    def _train(
        self, trainer: Trainer, signals: Signals, bars: Bars, console: Console
    ) -> Generator[None]:
        """Train from the start or from the last checkpoint on, and write the results."""
        run, fabric = self.run, self._fabric
        with run.writing() if fabric.is_global_zero else nullcontext():
            state, warning = same_checkpoint(self._training, fabric)
            if not self._training.resume:
                if fabric.is_global_zero:
                    run.create(trainer.configuration, trainer.images, fabric.device)
                fabric.barrier()
            elif state:
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
            trained = Trained(
                network=network,
                configuration=trainer.configuration,
                images=trainer.images,
                fabric=fabric,
                epochs=trainer.epoch,
                steps=0,
                warning=None,
            )
            if fabric.is_global_zero:
                write_results(run, trained, trainer.history)
                say(console, self.name + last_line(trainer.history[-1], run))
        if self.turns:
            self.turns.wait()
        self.trained, self.last_row = trained, trainer.history[-1]


def _take_turns(lanes: Sequence[_Lane], console: Console) -> Interrupted | None:
    """Train all until each has ended or failed, or all were told to stop; return what they say."""
    stops: dict[_Lane, Interrupted] = {}
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
                stops[lane] = stop
    if len(stops) < 2:
        return next(iter(stops.values()), None)
    again = resuming(*(lane.run.folder for lane in lanes if lane in stops))
    return Interrupted(
        next(iter(stops.values())).number,
        f"stopped {len(stops)} trainings; everything is saved, continue with: {again}",
    )
