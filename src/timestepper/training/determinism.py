"""Kernels that give the same bits each time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from timestepper.errors import ConfigurationError

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
"""Without a fixed workspace cuBLAS may add in any order (PyTorch's notes on randomness)."""


@contextmanager
def deterministic_kernels(wanted: bool) -> Iterator[None]:
    """Use only kernels that give the same bits each time, if wanted.

    Args:
        wanted: if not, nothing is changed.

    Raises:
        ConfigurationError: an operation has no such kernel.
    """
    if not wanted:
        yield
        return
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault(WORKSPACE, ":4096:8")
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        reason = str(error).splitlines()[0]
        raise ConfigurationError(
            f"the network has an operation without a deterministic kernel ({reason}); leave "
            "deterministic out, or use another operation"
        ) from error
    finally:
        torch.use_deterministic_algorithms(before)
