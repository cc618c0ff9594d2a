"""What TensorBoard shows of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from timestepper.training.run import History


class Events:
    """Writes a training's numbers to where TensorBoard looks.

    Args:
        folder: the run's events.
        history: epochs that are done already. They are written again, and what a training that
            stopped has left there is hidden.
    """

    def __init__(self, folder: Path, history: History) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=0 if history else None)
        for row in history:
            self.write(row)

    def write(self, row: Mapping[str, float]) -> None:
        """Write one epoch."""
        epoch = int(row["epoch"])
        for name, value in row.items():
            if name != "epoch":
                self._writer.add_scalar(_tag(name), value, epoch)
        self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()


def _tag(name: str) -> str:
    """Group the splits' curves of one quantity: ``train_loss`` becomes ``loss/train``."""
    split, _, quantity = name.partition("_")
    return f"{quantity}/{split}" if split in ("train", "validation", "test") else name
