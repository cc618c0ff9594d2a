"""What TensorBoard shows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from timestepper.training.run import History
from timestepper.training.step_history import StepHistory


class Events:
    """Writes a training's numbers to where TensorBoard looks.

    Args:
        folder: the run's events.
        history: epochs that are done already. They are written again, and what a training that
            was stopped or killed has left there is hidden.
        steps: the step sizes that belong to them, from the start on.
    """

    def __init__(self, folder: Path, history: History, steps: StepHistory) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=0)
        self._write_steps(steps, 0)
        for row in history:
            self.write(row, steps)

    def write(self, row: Mapping[str, float], steps: StepHistory) -> None:
        """Write one epoch.

        Args:
            row: its metrics.
            steps: the step sizes, up to this epoch at least.
        """
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(_tag(name), value, epoch)
        self._write_steps(steps, epoch)
        self._writer.flush()

    def _write_steps(self, steps: StepHistory, epoch: int) -> None:
        """Write each block's step sizes, as a histogram over channels and their mean."""
        for name, rows in steps.items():
            channels = rows[epoch]
            self._writer.add_histogram(f"step_sizes/{name}", channels, epoch)
            self._writer.add_scalar(f"mean_step_size/{name}", channels.mean().item(), epoch)

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _tag(name: str) -> str:
    """Group the splits' curves of one quantity: ``train_loss`` becomes ``loss/train``."""
    split, _, quantity = name.partition("_")
    return f"{quantity}/{split}" if split in ("train", "validation", "test") else name
