"""Libraries that draw from global generators, made to do so reproducibly."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def seeded(*key: int) -> Iterator[int]:
    """Let NumPy's global generator depend on a key alone, and put it back afterwards.

    PyTorch's global generator of the CPU is put back as well: a data loader takes a number from it.

    Args:
        *key: whole numbers that are not negative.

    Yields:
        A seed that depends on the key alone, for what has a generator of its own.
    """
    words = np.random.SeedSequence(key).generate_state(5)
    state = np.random.get_state()
    np.random.seed(words[:4])
    try:
        with torch.random.fork_rng(devices=[]):
            yield int(words[4])
    finally:
        np.random.set_state(state)
