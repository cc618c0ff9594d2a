"""Ctrl-C and SIGTERM: finish the step, save, leave."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:  # Importing it takes seconds, and the command line takes what is here.
    from lightning_fabric import Fabric


class Interrupted(Exception):  # noqa: N818 - it is no error
    """A training was asked to stop and has saved its state.

    Args:
        number: the signal.
        message: where it stopped and how to go on.
    """

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


class Signals:
    """Notes signals to end while it is entered; a second one takes effect at once.

    Args:
        numbers: which signals. One that is ignored stays so, as SIGHUP under nohup and SIGINT in a
            shell's background.
    """

    def __init__(self, numbers: Sequence[int] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self._numbers = numbers
        self.received: int | None = None

    def __enter__(self) -> Signals:
        heeded = [n for n in self._numbers if signal.getsignal(n) != signal.SIG_IGN]
        self._before = {n: signal.signal(n, self._note) for n in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        for each, handler in self._before.items():
            signal.signal(each, handler)

    def agreed(self, fabric: Fabric) -> int | None:
        """Return the signal that any of the processes got, the same on all of them."""
        if fabric.world_size == 1:
            return self.received
        number = torch.tensor(float(self.received or 0), device=fabric.device)
        highest = fabric.all_reduce(number, reduce_op="max")
        assert isinstance(highest, torch.Tensor)
        return int(highest) or None


class _AtOnce(Signals):
    """Signals of which the first one takes effect at once, too."""

    def _note(self, number: int, frame: FrameType | None) -> None:
        super()._note(number, frame)
        # Not Interrupted itself, which whoever catches every Exception would take for a failure.
        raise KeyboardInterrupt


@contextmanager
def stopped_at_once(message: str) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM end work that has nothing to save, but may have to clean up.

    Args:
        message: what they come to.

    Raises:
        Interrupted: one came.
    """
    with _AtOnce() as signals:
        try:
            yield
        except KeyboardInterrupt:
            if signals.received is None:
                raise
            raise Interrupted(signals.received, message) from None


def leave_processes(fabric: Fabric) -> None:
    """End the process group; its threads abort a process in which Python has ended before them.

    All processes come here together. After an error they may not, and this could wait for ever.
    """
    if fabric.world_size > 1:
        torch.distributed.destroy_process_group()
