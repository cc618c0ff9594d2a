"""What is said when a process that reads images is killed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from timestepper.errors import DataError


@contextmanager
def living_workers() -> Iterator[None]:
    """Say in one line that a worker process was killed.

    Torch raises its error from a signal handler, in the midst of whatever this process does: what
    only takes the batches is to be in here, too.

    Raises:
        DataError: one was.
    """
    try:
        yield
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        raise DataError(
            "a process that reads images was killed, perhaps for lack of memory; set data.workers "
            "lower, or 0"
        ) from error
