"""How a process on the CPU gets its memory, and what is said when there is no more."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from timestepper.errors import RunError

# glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_memory() -> None:
    """Let glibc's allocator return no memory to the system while the process lives.

    It would return and fetch again megabytes or tens of them in each training step, more in one
    network than in another: that hangs on the chance of which small block ends up last in memory,
    and costs up to a fifth of the step. The most memory that a process takes stays the same.
    Elsewhere than on glibc nothing is set.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


@contextmanager
def enough_memory() -> Iterator[None]:
    """Say in one line that a training needs more memory than there is.

    Raises:
        RunError: torch could not get memory.
    """
    try:
        yield
    except RuntimeError as error:
        is_host = "DefaultCPUAllocator" in str(error)
        if not is_host and not isinstance(error, torch.OutOfMemoryError):
            raise
        what = "memory" if is_host else "GPU memory"
        raise RunError(
            f"there is not enough {what} for the training; make batch_size smaller, or train fewer "
            "networks at once; what was saved before is kept"
        ) from error
