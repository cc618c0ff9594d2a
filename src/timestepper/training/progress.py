"""What a person sees of a training: a bar on a terminal, and one line for each epoch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from timestepper.training.commands import command
from timestepper.training.run import Run


class Bars(Progress):
    """The bars of the trainings that run, shown while it is entered.

    Args:
        console: where to; bars appear on terminals only.
    """

    def __init__(self, console: Console) -> None:
        super().__init__(
            TextColumn("{task.description}epoch {task.fields[epoch]}/{task.fields[epochs]}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%  {task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )


class TrainingProgress:
    """Shows how far a training is, while it is entered.

    Args:
        bars: where its bar is, and the console of its lines.
        updates: optimizer steps of the whole training.
        done: those made before.
        epochs: number of epochs.
        name: how its lines begin.
    """

    def __init__(self, bars: Bars, *, updates: int, done: int, epochs: int, name: str) -> None:
        self.epochs = epochs
        self._bars = bars
        self._name = name
        self._task = bars.add_task(
            name, total=updates, completed=done, epoch=1, epochs=epochs, figures=""
        )

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.remove_task(self._task)

    def update(
        self, *, epoch: int, done: int, loss: float, accuracy: float, images_per_second: float
    ) -> None:
        """Move the bar.

        Args:
            epoch: number of the epoch, from 1.
            done: optimizer steps made since the training began.
            loss: mean training loss of this epoch so far.
            accuracy: training accuracy of this epoch so far, 0 to 1.
            images_per_second: training images in a second.
        """
        figures = f"loss {loss:.3f}  accuracy {accuracy:.1%}  {images_per_second:,.0f} images/s"
        self._bars.update(self._task, completed=done, epoch=epoch, figures=figures)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Print the line of an epoch that is finished."""
        width = len(str(self.epochs))
        split = _evaluated(row)
        self._bars.console.print(
            f"{self._name}epoch {row['epoch']:{width}.0f}/{self.epochs}"
            f"  train loss {row['train_loss']:.4f} accuracy {row['train_accuracy']:6.2%}"
            f"  {split} loss {row[f'{split}_loss']:.4f} accuracy {row[f'{split}_accuracy']:6.2%}"
            f"  {row['images_per_second']:,.0f} images/s",
            highlight=False,
            soft_wrap=True,
        )


def say(console: Console, line: str) -> None:
    """Print a line as it is: names of folders may look like rich's markup."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def last_line(row: Mapping[str, float], run: Run) -> str:
    """Say what a training came to.

    Args:
        row: its last epoch.
        run: its folder.
    """
    split = _evaluated(row)
    line = (
        f"{split} accuracy {row[f'{split}_accuracy']:.2%} after {row['epoch']:.0f} epochs; "
        f"the folded network is in {run.folded}"
    )
    if split == "validation":
        line += f"; {command('evaluate', run.folder)} measures the test images"
    return line


def summary(rows: Sequence[Mapping[str, float]]) -> str:
    """Say what several trainings came to, two or more.

    Args:
        rows: the last epoch of each.
    """
    split = _evaluated(rows[0])
    values = [row[f"{split}_accuracy"] for row in rows]
    mean, deviation = statistics.mean(values), statistics.stdev(values)
    return f"{len(rows)} trainings: {split} accuracy {mean:.2%}, standard deviation {deviation:.2%}"


def _evaluated(row: Mapping[str, float]) -> str:
    """Tell on which images an epoch was evaluated."""
    return "validation" if "validation_loss" in row else "test"
