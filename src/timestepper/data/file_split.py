"""Images that are too large for memory, read by worker processes."""

from __future__ import annotations

import atexit
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timestepper.data import images
from timestepper.data.order import AUGMENTATION, generator
from timestepper.data.splits import Split
from timestepper.data.workers import living_workers
from timestepper.errors import DataError

SECONDS_TO_LEAVE = 60
"""How long a worker goes on after SIGTERM."""


class FileSplit(Split):
    """Image files, decoded and cropped as ImageNet is, whenever they are asked for.

    Training: a random box resized to a square, mirrored half of the time. Test: the shorter side
    resized to 256/224 of the side, central square.

    Args:
        paths: the files.
        labels: the class of each.
        side: pixels of each side of the squares.
        workers: number of processes that read; 0 reads in this one.
        files: see :class:`~timestepper.data.splits.Split`.
    """

    def __init__(
        self,
        paths: Sequence[str],
        labels: Sequence[int],
        side: int,
        workers: int,
        files: str = "",
    ) -> None:
        self.paths = paths
        self.labels = torch.tensor(labels)
        self.side = side
        self.workers = workers
        self.files = files

    def __len__(self) -> int:
        return len(self.paths)

    def fetch(
        self,
        order: Tensor,
        shares: Sequence[slice],
        *,
        device: torch.device,
        seed: int,
        epoch: int,
        augment: bool,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Read, crop and flip in worker processes; see :meth:`Split.fetch`."""
        loader = DataLoader(
            _Samples(self, seed, epoch, augment),
            batch_sampler=[order[share].tolist() for share in shares],
            num_workers=self.workers,
            collate_fn=images.stack_or_complain,
            pin_memory=device.type == "cuda",
            worker_init_fn=_outlive_a_signal,
            # Without one of its own, the loader takes a number from the global generator.
            generator=torch.Generator(),
        )
        with living_workers(), _stopped_at_the_end(iter(loader)) as batches:
            for batch in batches:
                if isinstance(batch, DataError):
                    raise batch
                pixels, labels = batch
                yield (
                    pixels.to(device, non_blocking=True).float(),
                    labels.to(device, non_blocking=True),
                )


@contextmanager
def _stopped_at_the_end(batches: Any) -> Iterator[Iterator[Any]]:
    """Stop a loader's workers at the process's end, too, if it comes before that of the batches.

    Python would end them by SIGTERM, and wait for as long as they outlive it.
    """
    stop = getattr(batches, "_shutdown_workers", None)
    if stop is None:  # nothing but this process reads
        yield batches
        return
    atexit.register(stop)
    try:
        yield batches
    finally:
        atexit.unregister(stop)
        stop()


def _outlive_a_signal(worker: int) -> None:
    """Give the training, which gets the signal too, time for its last step and to save.

    After Ctrl-C the training itself ends its workers, or they notice that it is gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(SECONDS_TO_LEAVE))


class _Samples(Dataset[tuple[Tensor, int] | DataError]):
    """What a worker process does for one image."""

    def __init__(self, split: FileSplit, seed: int, epoch: int, augment: bool) -> None:
        self.split = split
        self.key = (seed, epoch, AUGMENTATION)
        self.augment = augment

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        side = self.split.side
        try:
            image = images.read(self.split.paths[index])
        except DataError as error:
            return error
        if self.augment:
            pixels = images.random_crop(image, side, generator(*self.key, index))
        else:
            pixels = images.centre_crop(image, side, round(side * 256 / 224))
        return pixels, int(self.split.labels[index])
