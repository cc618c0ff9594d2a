"""A training: what it consists of, how far it is, and how it goes on."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import ExitStack, closing
from functools import partial
from typing import Any

from lightning_fabric import Fabric
from torch import Tensor

from timestepper.data import DataSet
from timestepper.stepping import evolution_time, explain, load_weights
from timestepper.training.commands import resuming
from timestepper.training.compatibility import ADDED, require_same_training, require_whole
from timestepper.training.configuration import Configuration
from timestepper.training.evaluation import Scores, evaluate, evaluation_batch
from timestepper.training.events import Events
from timestepper.training.explanations import explanation_columns, from_state, to_state
from timestepper.training.generators import generator_states, restore_generators
from timestepper.training.interruption import Interrupted, Signals
from timestepper.training.looks import Look
from timestepper.training.not_finite import stopped
from timestepper.training.optimizer import load_optimizer, optimizer_state
from timestepper.training.progress import Bars, TrainingProgress
from timestepper.training.results import write_histories
from timestepper.training.run import History, Run
from timestepper.training.schedule import learning_rate
from timestepper.training.step_history import extended
from timestepper.training.steps import Steps
from timestepper.training.sync_batch_norm import share_statistics

# Looking at numbers costs time: the loss is looked at this often.
STEPS_BETWEEN_LOOKS = 20


class Trainer(Steps):
    """A training: its parts, and how far it is.

    Args:
        run: where everything is kept.
        configuration: what to train.
        images: on what.
        fabric: device, precision and processes.
    """

    def __init__(
        self, run: Run, configuration: Configuration, images: DataSet, fabric: Fabric
    ) -> None:
        super().__init__(configuration, images, fabric)
        self.run = run
        self.images = images
        self.skipped = 0
        self.epoch = 0
        self.batch = 0
        self.history: History = []
        self.step_history = extended({}, self.network)
        self.explanations = [explain(self.network)] if configuration.stepping.explain else []
        self.updates_per_epoch = len(self.batches(0))

    @property
    def updates(self) -> int:
        """Optimizer steps made."""
        return self.epoch * self.updates_per_epoch + self.batch

    @property
    def _own_batch_size(self) -> int:
        """This process's share of a batch."""
        return self.configuration.batch_size // self.fabric.world_size

    def batches(self, start: int) -> Any:
        """Return the rest of this epoch's batches."""
        return self.images.batches(
            "train",
            self._own_batch_size,
            device=self.fabric.device,
            seed=self.configuration.seed,
            epoch=self.epoch,
            start=start,
            rank=self.fabric.global_rank,
            world_size=self.fabric.world_size,
        )

    def fit(self, signals: Signals, bars: Bars, name: str = "") -> Iterator[None]:
        """Train until the last epoch is done, or a signal comes.

        Args:
            signals: those that end it.
            bars: where progress is shown.
            name: how its lines begin, where others train beside it.

        Yields:
            After each optimizer step, so that others can make theirs.

        Raises:
            RunError: a loss or a gradient is not finite.
            Interrupted: a signal came; everything is saved.
        """
        epochs = self.configuration.epochs
        updates = epochs * self.updates_per_epoch
        with ExitStack() as stack:
            progress = stack.enter_context(
                TrainingProgress(bars, updates=updates, done=self.updates, epochs=epochs, name=name)
            )
            events = None
            if self.fabric.is_global_zero:
                events = stack.enter_context(
                    closing(Events(self.run.events, self.history, self.step_history))
                )
            # Others may have taken long to begin.
            self._leave_if_told(signals)
            while self.epoch < epochs:
                start = time.perf_counter()
                images_seen = yield from self._train_epoch(signals, progress)
                seconds = time.perf_counter() - start
                # None were left where it had stopped in the evaluation.
                speed = images_seen / seconds if images_seen else math.nan
                self._end_epoch(speed, events, signals)
                progress.epoch(self.history[-1])
                if signal := signals.agreed(self.fabric):
                    self._leave(signal)

    def _train_epoch(
        self, signals: Signals, progress: TrainingProgress
    ) -> Generator[None, None, int]:
        """Train until the end of the epoch; return the number of images it took."""
        self.module.train()
        images_seen = 0
        losses: list[Tensor] = []
        looks: deque[Look] = deque()
        on_cpu = self.fabric.device.type == "cpu"
        start = time.perf_counter()
        for inputs, labels in self.batches(self.batch):
            losses.append(self.step(inputs, labels))
            self.batch += 1
            images_seen += len(labels) * self.fabric.world_size
            last = self.batch == self.updates_per_epoch
            looking = last or self.batch % STEPS_BETWEEN_LOOKS == 0
            alone = self.fabric.world_size == 1
            signal = None if last or not (looking or alone) else signals.agreed(self.fabric)
            if looking or signal:
                speed = images_seen / (time.perf_counter() - start)
                looks.append(Look(self.batch, speed, losses, self.meter, self.guard))
                losses = []
            # A GPU is busy with what was launched meanwhile when the host reads the look before.
            while len(looks) > (0 if last or signal or on_cpu else 1):
                self._read(looks.popleft(), progress)
            if signal:
                self._save(best=False)
                self._leave(signal)
            yield
        return images_seen

    def _read(self, look: Look, progress: TrainingProgress) -> None:
        """Show how the epoch goes, or stop if one of the last losses is not finite."""
        if (wrong := look.first_not_finite) is not None:
            step, loss = wrong
            self._stop(f"the training loss is {loss}", f", step {step}")
        if look.batch > self.skipped:
            progress.update(
                epoch=self.epoch + 1,
                done=self.epoch * self.updates_per_epoch + look.batch,
                loss=look.scores.loss,
                accuracy=look.scores.accuracy,
                images_per_second=look.images_per_second,
            )

    def step(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Make the next optimizer step; return the batch's loss."""
        lr = learning_rate(self.configuration, self.updates, self.updates_per_epoch)
        loss, is_made = self.make_step(inputs, labels, lr)
        if not is_made:
            self._refuse_step(loss, inputs)
        return loss

    def _refuse_step(self, loss: Tensor, inputs: Tensor) -> None:
        """Leave out a step whose gradients are not finite, or stop."""
        if self.guard.skip:
            self.guard.undo_step()
            self.skipped += 1
            if self.skipped == self.updates_per_epoch:
                self._stop("no step has finite gradients")
            return
        lost = f"the training loss is {loss.item()}"
        what = "a gradient is not finite" if loss.isfinite() else lost
        self._stop(what, f", step {self.batch + 1}{self.guard.culprit(inputs)}")

    def _stop(self, what: str, where: str = "") -> None:
        place = f"{what} in epoch {self.epoch + 1}{where}"
        raise stopped(self.run, place, penalised=self.penalty is not None)

    def _leave_if_told(self, signals: Signals) -> None:
        """Save and leave if told to; several processes agree on it elsewhere."""
        if self.fabric.world_size == 1 and signals.received:
            self._save(best=False)
            self._leave(signals.received)

    def _end_epoch(self, speed: float, events: Events | None, signals: Signals) -> None:
        """Evaluate, write everything down, go on to the next epoch."""
        trained = self.meter.compute()
        # All evaluate with the statistics that are saved.
        share_statistics(self.trained, self.fabric)
        split = self.images.evaluation_split
        leave = partial(self._leave_if_told, signals)
        batch = evaluation_batch(self.images, self.fabric.device, self._own_batch_size)
        tested = evaluate(self.trained, self.images, self.fabric, batch, split, leave)
        if not math.isfinite(tested.loss):
            self._stop(f"the {split} loss is {tested.loss}")
        before = max((row[f"{split}_accuracy"] for row in self.history), default=-1.0)
        best = tested.accuracy > before
        if self.explanations:
            self.explanations.append(explain(self.trained))
        self.history.append(self._row(trained, tested, speed))
        self.step_history = extended(self.step_history, self.trained)
        self.epoch += 1
        self.batch = self.skipped = 0
        self.meter.clear()
        self._save(best=best)
        if events is not None:  # the first process
            write_histories(self.run, self.history, self.step_history, self.explanations)
            events.write(self.history[-1], self.step_history)

    def _row(self, trained: Scores, tested: Scores, images_per_second: float) -> dict[str, float]:
        times = evolution_time(self.trained) if hasattr(self.trained, "time_stepping") else {}
        penalty = {} if self.last_penalty is None else {"penalty": self.last_penalty.item()}
        split = self.images.evaluation_split
        return {
            "epoch": self.epoch + 1,
            "lr": learning_rate(self.configuration, self.updates - 1, self.updates_per_epoch),
            "train_loss": trained.loss,
            "train_accuracy": trained.accuracy,
            **penalty,
            f"{split}_loss": tested.loss,
            f"{split}_accuracy": tested.accuracy,
            "images_per_second": images_per_second,
            **({"skipped_steps": self.skipped} if self.guard.skip else {}),
            **{f"evolution_time/{stage}": value for stage, value in times.items()},
            **explanation_columns(self.explanations),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return all that the rest of the training depends on; all processes come here."""
        return {
            "network": self.network.state_dict(),
            "ema": None if self.ema is None else self.ema.module.state_dict(),
            "penalty": None if self.penalty is None else self.penalty.state_dict(),
            "last_penalty": self.last_penalty,
            "optimizer": optimizer_state(self.optimizer),
            "meter": self.meter.state_dict(),
            "generators": generator_states(self.fabric),
            "epoch": self.epoch,
            "batch": self.batch,
            "batch_size": self.configuration.batch_size,
            "skipped": self.skipped if self.guard.skip else None,
            "history": self.history,
            "validation": self.configuration.data.validation,
            "step_history": self.step_history,
            "explanations": to_state(self.explanations),
        }

    def _save(self, *, best: bool) -> None:
        """Write a checkpoint."""
        state = self.state_dict()
        if self.fabric.is_global_zero:
            self.run.checkpoints.save(state, best=best)
        self.fabric.barrier()

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint.

        Raises:
            StateError: it belongs to another network.
            RunError: it belongs to a training with other settings, or to an earlier version.
        """
        state = ADDED | state
        require_same_training(state, self.configuration, self.images.fingerprint(), self.run)
        load_weights(self.network, state["network"])
        if self.ema is not None:
            load_weights(self.ema.module, state["ema"])
        require_whole(state, self.state_dict(), list(self.network.parameters()), self.run)
        if self.penalty is not None:
            self.penalty.load_state_dict(state["penalty"])
            self.last_penalty = state["last_penalty"]
        load_optimizer(self.optimizer, state["optimizer"])
        self.meter.load_state_dict(state["meter"])
        self.epoch, self.batch = state["epoch"], state["batch"]
        self.skipped = state["skipped"] or 0
        self.history = list(state["history"])
        self.step_history = state["step_history"]
        self.explanations = from_state(state["explanations"])
        restore_generators(state["generators"], self.fabric)
        if self.fabric.is_global_zero:
            if self.history:
                write_histories(self.run, self.history, self.step_history, self.explanations)
            self.run.add_provenance(f"from {self._done()} on", self.fabric.device)

    def _done(self) -> str:
        """Say how far the training is."""
        done = f"{self.epoch} of {self.configuration.epochs} epochs"
        if self.batch:
            done += f" and {self.batch} of {self.updates_per_epoch} steps"
        return done

    def _leave(self, signal: int) -> None:
        raise Interrupted(
            signal,
            f"stopped after {self._done()}; everything is saved, continue with: "
            f"{resuming(self.run.folder)}",
        )
