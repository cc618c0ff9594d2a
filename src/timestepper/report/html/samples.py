"""What a network makes of some images that it was not trained on."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from timestepper.data import DataSet
from timestepper.report.html.parts import Picture
from timestepper.training.trained import Trained

IMAGES = 500
"""So many images are classified at most,"""
PIXELS = 2**21
"""and of larger ones so many that they have this many pixels: seconds on one core."""
SHOWN = 12
"""So many of the right ones, and of the wrong ones."""
SIDE = 96
"""Larger images are shrunk to this."""


@dataclass(frozen=True)
class Samples:
    """Images with what a network makes of them.

    Attributes:
        split: which images.
        seen: how many were classified, drawn at random.
        of: how many there are.
        right: how many of them are right.
        shown_wrong: the first of those that are wrong.
        shown_right: the first of the others.
        epochs: how many whole epochs the network had seen.
        steps: how many steps of the next.
    """

    split: str
    seen: int
    of: int
    right: int
    shown_wrong: tuple[Picture, ...]
    shown_right: tuple[Picture, ...]
    epochs: int
    steps: int

    def taken(self, epochs: int) -> str:
        """Say when the network was taken, empty where that was after so many epochs."""
        if (self.epochs, self.steps) == (epochs, 0):
            return ""
        within = f" and {self.steps} steps of the next" if self.steps else ""
        return f"after epoch {self.epochs}{within}"


@torch.no_grad()
def classify(trained: Trained) -> Samples:
    """Classify some of the images that the run is evaluated on, always the same ones."""
    images = trained.images
    height, width = images.image_size
    count = max(SHOWN, min(IMAGES, PIXELS // (height * width)))
    split = images.evaluation_split
    # Shuffled, as folders give one class after the other.
    batches = replace(images.batches(split, count, device=trained.fabric.device), shuffle=True)
    inputs, labels = next(iter(batches))
    with trained.fabric.autocast():
        outputs = trained.network(inputs).float()
    probabilities, predicted = outputs.softmax(1).max(1)
    # As where accuracy is measured: for max NaN is the largest number.
    is_right = ((predicted == labels) & ~outputs.isnan().any(1)).cpu()

    def pictures(chosen: Tensor) -> tuple[Picture, ...]:
        return tuple(
            Picture(
                source=data_uri(inputs[number], images),
                true=images.classes[labels[number]],
                predicted=images.classes[predicted[number]],
                probability=probabilities[number].item(),
            )
            for number in chosen.nonzero().flatten()[:SHOWN].tolist()
        )

    return Samples(
        split=split,
        seen=len(labels),
        of=len(images.split(split)),
        right=int(is_right.sum()),
        shown_wrong=pictures(~is_right),
        shown_right=pictures(is_right),
        epochs=trained.epochs,
        steps=trained.steps,
    )


def data_uri(normalised: Tensor, images: DataSet) -> str:
    """Write an image as a PNG inside of a URI.

    Args:
        normalised: as the network sees it, float32 ``(channels, height, width)``.
        images: whose mean and standard deviation it is normalised by.
    """
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (images.mean, images.std))
    pixels = (normalised.cpu() * std + mean).mul(255).round().clamp(0, 255).byte()
    array = pixels.permute(1, 2, 0).numpy()
    picture = Image.fromarray(array[..., 0] if array.shape[2] == 1 else array)
    picture.thumbnail((SIDE, SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
