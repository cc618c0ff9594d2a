"""All small images of a folder, decoded once in parallel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from timestepper.data import images
from timestepper.data.workers import living_workers
from timestepper.errors import DataError

CHUNK = 256  # images that a worker hands over at a time


class OtherSizeError(DataError):
    """An image is not as large as the others."""


def decode_all(
    paths: Sequence[str], size: tuple[int, int], *, resize: bool, workers: int
) -> Tensor:
    """Decode images.

    Args:
        paths: the files.
        size: height and width; equal where ``resize``.
        resize: whether to resize the shorter side and cut the central square out.
        workers: processes to use. Processes and not threads: an image of 32x32 takes longer
            in Python than in the decoder.

    Returns:
        uint8 ``(n, 3, height, width)``.

    Raises:
        OtherSizeError: if an image has another size and is not to be resized.
        DataError: if an image is broken, or a process is killed.
    """
    loader = DataLoader(
        _Decoded(paths, size, resize),
        batch_size=CHUNK,
        num_workers=workers if len(paths) > CHUNK else 0,
        collate_fn=images.stack_or_complain,
        # Without one of its own, the loader takes a number from the global generator.
        generator=torch.Generator(),
    )
    result = torch.empty((len(paths), 3, *size), dtype=torch.uint8)
    with living_workers():
        for number, chunk in enumerate(loader):
            if isinstance(chunk, DataError):
                raise chunk
            result[number * CHUNK : (number + 1) * CHUNK] = chunk[0]
    return result


class _Decoded(Dataset[tuple[Tensor, int] | DataError]):
    """What a worker process does for one image."""

    def __init__(self, paths: Sequence[str], size: tuple[int, int], resize: bool) -> None:
        self.paths = paths
        self.size = size
        self.resize = resize

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, int] | DataError:
        try:
            image = images.read(self.paths[index])
        except DataError as error:
            return error
        if self.resize:
            return images.centre_crop(image, self.size[0], self.size[0]), index
        if (image.height, image.width) != self.size:
            return OtherSizeError(f"{self.paths[index]} is {image.height}x{image.width}")
        return torch.from_numpy(np.array(image)).permute(2, 0, 1), index
