"""Checkpoints that are either whole or not there, and the way back to the last whole one."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path
from typing import Any, Literal

import torch

from timestepper.errors import RunError

Which = Literal["last", "best"]


class Checkpoints:
    """A folder with the checkpoints of one run.

    ``last.pt`` is the newest, ``previous.pt`` the one before, ``best.pt`` that of the best epoch.
    Each is written under another name, flushed to the disk and then renamed, so that whatever
    happens meanwhile, there is always a whole one.

    Args:
        folder: where they are.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.last = folder / "last.pt"
        self.previous = folder / "previous.pt"
        self.best = folder / "best.pt"

    def exist(self) -> bool:
        """Tell whether any was written."""
        return self.last.exists() or self.previous.exists()

    def save(self, state: dict[str, Any], *, best: bool) -> None:
        """Write the newest checkpoint.

        Args:
            state: tensors, numbers, texts, and dictionaries, lists and tuples of these.
            best: whether it is the best one, too.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        new = self.folder / "last.pt.new"
        with new.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        if best:
            copy = self.folder / "best.pt.new"
            shutil.copyfile(new, copy)
            copy.replace(self.best)
        if self.last.exists():
            self.last.replace(self.previous)
        new.replace(self.last)

    def load(self, which: Which = "last") -> tuple[dict[str, Any], str | None]:
        """Read a checkpoint onto the CPU; where the last one is broken, the one before.

        Nothing is unpickled but tensors and plain values.

        Args:
            which: the last or the best one.

        Returns:
            The state, and a line about why it isn't the one that was asked for, or None.

        Raises:
            RunError: no checkpoint is left that can be read.
        """
        candidates = [self.best] if which == "best" else [self.last, self.previous]
        present = [path for path in candidates if path.exists()]
        if not present:
            raise RunError(
                f"{self.folder}: there is no {which} checkpoint yet; continue the training with "
                f"timestepper train --resume {self.folder.parent}"
            )
        warning = None
        for path in present:
            try:
                with path.open("rb") as file:
                    state = torch.load(file, map_location="cpu", weights_only=True)
                if not isinstance(state, dict) or "network" not in state:
                    raise ValueError("not a checkpoint of a training")
            except (
                *(RuntimeError, OSError, EOFError, ValueError, LookupError),
                pickle.UnpicklingError,
            ) as error:
                reason = str(error).strip().splitlines()[0][:120] if str(error) else "it is empty"
                broken = f"{path} can't be read ({reason})"
                warning = f"{broken}; going back to the one before"
            else:
                return state, warning
        raise RunError(f"{broken}, and there is no other one; start the training anew")
