"""Checkpoints that are either whole or not there, and the way back to the last whole one."""

from __future__ import annotations

import io
import pickle
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal

import torch

from timestepper.errors import RunError
from timestepper.files import require_undamaged, write_atomically, write_new
from timestepper.training.commands import resuming

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

        Raises:
            OSError: it can't be written; those that were there before are still there.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        # torch says nothing of use where it can't write to a file itself.
        content = io.BytesIO()
        torch.save(state, content)
        new = write_new(self.last, content.getbuffer())
        try:
            if best:
                write_atomically(self.best, content.getbuffer())
        except OSError:
            new.unlink()
            raise
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
                f"{resuming(self.folder.parent)}"
            )
        warning = None
        for path in present:
            try:
                with path.open("rb") as file:
                    require_undamaged(file)
                    state = torch.load(file, map_location="cpu", weights_only=True)
                if not _is_checkpoint(state):
                    raise ValueError("not a checkpoint of a training")
            except (
                *(RuntimeError, OSError, EOFError, ValueError, LookupError, NotImplementedError),
                *(pickle.UnpicklingError, zipfile.BadZipFile, zlib.error),
            ) as error:
                reason = str(error).strip().splitlines()[0][:120] if str(error) else "it is empty"
                broken = f"{path} can't be read ({reason})"
                warning = f"{broken}; going back to the one before"
            else:
                return state, warning
        if which == "best":
            raise RunError(f"{broken}; the last one may be whole: leave --checkpoint best out")
        raise RunError(f"{broken}, and there is no other one; start the training anew")


def _is_checkpoint(state: Any) -> bool:
    """Tell whether there is a network in it, and how far it was trained."""
    return (
        isinstance(state, dict)
        and isinstance(state.get("network"), dict)
        and "ema" in state
        and isinstance(state["ema"], dict | None)
        and isinstance(state.get("history"), list)
        and isinstance(state.get("batch", 0), int)
    )
