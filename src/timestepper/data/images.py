"""Single images of a folder: reading them, and the crops that ImageNet is trained with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from timestepper.errors import DataError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

LONGEST = 20
"""Sides of longer images, as multiples of the shorter one, are cut before they are resized."""


def read(path: str) -> Image:
    """Decode an image file.

    Args:
        path: the file.

    Returns:
        A PIL image of three channels.

    Raises:
        DataError: if the file is no image, or a broken one, or has other pixels than 8 bits a
            channel, which would turn white or black.
    """
    from PIL import Image

    try:
        # Of what it only warns of, such as odd metadata, nothing concerns the pixels.
        with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
            has_bytes = not image.mode.startswith(("I", "F"))
            if has_bytes:
                return image.convert("RGB")
    except (
        *(OSError, SyntaxError, ValueError, Image.DecompressionBombError),
        RuntimeError,  # of AVIF and BLP
        *(TypeError, MemoryError),  # of TIFFs whose numbers are of another type, or much too large
    ) as error:
        raise DataError(
            f"image {path} cannot be read ({first_line(error)}); mend or remove it"
        ) from error
    raise DataError(
        f"image {path} has 16 bits or more a pixel (PIL's mode {image.mode}); convert it to 8 bits"
    )


def crop_box(height: int, width: int, source: torch.Generator) -> tuple[int, int, int, int]:
    """Draw a box of 8 to 100 % of an image's area and a ratio of sides of 3/4 to 4/3.

    The same draws in the same order as torchvision's ``RandomResizedCrop``, which can only draw
    from the global generator.

    Args:
        height: rows of the image.
        width: columns of the image.
        source: where random numbers come from.

    Returns:
        ``(top, left, height, width)`` of the box; after ten boxes that do not fit, the
        largest central one of an allowed ratio.
    """
    for _ in range(10):
        area = height * width * torch.empty(1).uniform_(0.08, 1.0, generator=source).item()
        logarithm = torch.empty(1).uniform_(math.log(3 / 4), math.log(4 / 3), generator=source)
        ratio = torch.exp(logarithm).item()
        box_width, box_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(torch.randint(0, height - box_height + 1, (1,), generator=source))
            left = int(torch.randint(0, width - box_width + 1, (1,), generator=source))
            return top, left, box_height, box_width
    box_width, box_height = width, height
    if width < 3 / 4 * height:
        box_height = round(width / (3 / 4))
    elif width > 4 / 3 * height:
        box_width = round(height * (4 / 3))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_crop(image: Image, side: int, source: torch.Generator) -> Tensor:
    """Resize a random box of an image or its mirror image to a square.

    The paper crops images of ImageNet to such a square, too, and does not say from which size.

    Args:
        image: a PIL image.
        side: pixels of each side of the result.
        source: where random numbers come from.

    Returns:
        uint8 ``(3, side, side)``.
    """
    from torchvision.transforms import functional

    top, left, height, width = crop_box(image.height, image.width, source)
    image = functional.resized_crop(image, top, left, height, width, [side, side])
    if torch.rand(1, generator=source).item() < 0.5:
        image = functional.hflip(image)
    tensor: Tensor = functional.pil_to_tensor(image)
    return tensor


def centre_crop(image: Image, side: int, resized: int) -> Tensor:
    """Resize an image's shorter side, and cut the central square out.

    Args:
        image: a PIL image.
        side: pixels of each side of the result.
        resized: the shorter side after resizing; 256 for 224 on ImageNet.

    Returns:
        uint8 ``(3, side, side)``.
    """
    from torchvision.transforms import functional

    longest = LONGEST * min(image.size)
    if max(image.size) > longest:  # resized, it could be too large for the memory
        image = functional.center_crop(
            image, [min(image.height, longest), min(image.width, longest)]
        )
    image = functional.center_crop(functional.resize(image, [resized]), [side, side])
    tensor: Tensor = functional.pil_to_tensor(image)
    return tensor


def stack_or_complain(
    samples: Sequence[tuple[Tensor, int] | DataError],
) -> tuple[Tensor, Tensor] | DataError:
    """Collate samples that worker processes read.

    Args:
        samples: image and label, or the error met in reading it. An exception that is raised in
            a worker would arrive with the worker's traceback in its message.

    Returns:
        Images and labels, or the first of the errors.
    """
    images, labels = [], []
    for sample in samples:
        if isinstance(sample, DataError):
            return sample
        images.append(sample[0])
        labels.append(sample[1])
    return torch.stack(images), torch.tensor(labels)
