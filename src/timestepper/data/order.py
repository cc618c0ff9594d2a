"""Which images make up which batch: functions of seed, epoch and rank that keep no state."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# What a generator is for, so that order, augmentation and the others are independent.
ORDER, AUGMENTATION, NOISE, CORRUPTION, ATTACK = range(5)


def generator(*key: int) -> torch.Generator:
    """Make a CPU generator whose numbers depend on nothing but the key.

    Args:
        *key: whole numbers, by convention seed, epoch, purpose and perhaps the image's number. Of
            equal length, and below 2**32, keys that differ give different generators.

    Returns:
        A generator of its own, far apart from those of neighbouring keys.
    """
    entropy = [part % 2**64 for part in key]
    (state,) = np.random.SeedSequence(entropy).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state))


def permutation(count: int, seed: int, epoch: int) -> Tensor:
    """Shuffle the numbers of all images, in the same way on every rank.

    Args:
        count: number of images.
        seed: seed of the run.
        epoch: number of the epoch.

    Returns:
        int64 ``(count,)`` on the CPU.
    """
    return torch.randperm(count, generator=generator(seed, epoch, ORDER))


def shares(
    count: int, batch_size: int, rank: int, world_size: int, *, even: bool, drop_last: bool
) -> list[slice]:
    """Cut the epoch's order into global batches, and those into the shares of one rank.

    Global batch b holds ``batch_size * world_size`` images, of which each rank takes
    ``batch_size`` in the order of ranks. The last, smaller one is shared out as well:

    * ``even``: all ranks get the same number, and the up to ``world_size - 1`` images left over
      are dropped, so that no rank waits for another one's gradient. Behind full batches, a single
      image for each is dropped too, up to ``2 * world_size - 1`` in all: batch norms may have
      nothing to normalise by;
    * otherwise every image goes to exactly one rank, and a rank whose share is empty has a
      batch less.

    Args:
        count: number of images.
        batch_size: images in a batch of one rank.
        rank: this process.
        world_size: number of processes.
        even: see above.
        drop_last: leave out the last global batch if it is not full.

    Returns:
        One slice into the order for each batch of this rank.
    """
    whole = batch_size * world_size
    full, rest = divmod(count, whole)
    result = [
        slice(b * whole + rank * batch_size, b * whole + (rank + 1) * batch_size)
        for b in range(full)
    ]
    if rest and not drop_last:
        if even:
            low, high = rank * (rest // world_size), (rank + 1) * (rest // world_size)
        else:
            low, high = rest * rank // world_size, rest * (rank + 1) // world_size
        if low < high and not (even and full and high - low == 1):
            result.append(slice(full * whole + low, full * whole + high))
    return result
