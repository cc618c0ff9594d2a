"""A data set, and the batches of one of its epochs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from timestepper.data.order import permutation, shares
from timestepper.data.parts import in_parts
from timestepper.data.splits import Split, Subset
from timestepper.errors import ConfigurationError

SplitName = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class DataSet:
    """Training and test images with what is known about them.

    Attributes:
        name: as it was asked for.
        classes: name of each class, by label.
        channels: 1 or 3.
        image_size: height and width.
        mean: of the training images, those held out included, per channel, where white is 1. For
            image folders that are read from files as training goes, ImageNet's.
        std: the standard deviation belonging to it.
        train: the training images.
        test: the test images.
        validation: training images that are held out, see :meth:`held_out`, or None.
    """

    name: str
    classes: tuple[str, ...]
    channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    train: Split
    test: Split
    validation: Split | None = None

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @property
    def evaluation_split(self) -> Literal["validation", "test"]:
        """What a training is evaluated on: validation images where there are any."""
        return "test" if self.validation is None else "validation"

    def held_out(self, count: int) -> DataSet:
        """Hold some of the training images out, to make choices by.

        Which ones is a function of the training images' labels alone, so that all seeds of a
        training hold out the same ones. Each class gives its share, unless there are fewer
        validation or remaining images than classes, or a class has a single image. Mean and
        standard deviation stay those of all training images.

        Args:
            count: how many.

        Returns:
            A data set with validation images, and fewer training images.

        Raises:
            ConfigurationError: the count is less than 1, or no training image would be left.
        """
        from sklearn.model_selection import train_test_split

        whole = len(self.train)
        if not 1 <= count < whole:
            raise ConfigurationError(
                f"{count} validation images can't be held out of the {whole} training images of "
                f"'{self.name}'; set data.validation to less than {whole}"
            )
        labels = self.train.labels.cpu()
        _, members = labels.unique(return_counts=True)
        enough = min(count, whole - count) >= len(members) and members.min() > 1
        kept, held = train_test_split(
            torch.arange(whole).numpy(),
            test_size=count,
            random_state=0,
            stratify=labels.numpy() if enough else None,
        )
        kept, held = (torch.from_numpy(numbers).sort().values for numbers in (kept, held))
        return replace(self, train=Subset(self.train, kept), validation=Subset(self.train, held))

    def fingerprint(self) -> dict[str, Any]:
        """Describe the images so that others are told from them, in values that JSON has.

        The same wherever they lie. Of earlier versions' descriptions digests are missing;
        :func:`~timestepper.data.fingerprint.differences` compares two.
        """
        held = {} if self.validation is None else {"validation_images": len(self.validation)}
        return {
            "classes": list(self.classes),
            "training_images": len(self.train),
            **held,
            "test_images": len(self.test),
            "shape": [self.channels, *self.image_size],
            "mean": list(self.mean),
            "std": list(self.std),
            "training_digest": self.train.digest(),
            "test_digest": self.test.digest(),
        }

    def split(self, name: SplitName) -> Split:
        """Return the images of a split.

        Raises:
            ConfigurationError: there is no such split, or it has no images.
        """
        splits = {"train": self.train, "validation": self.validation, "test": self.test}
        if name not in splits:
            raise ConfigurationError(f"split is {name!r}; it must be one of {', '.join(splits)}")
        found = splits[name]
        if found is None:
            raise ConfigurationError(
                f"no validation images of '{self.name}' are held out; data.validation says how "
                "many a training holds out"
            )
        return found

    def batches(
        self,
        split: SplitName,
        batch_size: int,
        *,
        device: torch.device,
        seed: int = 0,
        epoch: int = 0,
        start: int = 0,
        rank: int = 0,
        world_size: int = 1,
        augment: bool | None = None,
        drop_last: bool = False,
    ) -> Batches:
        """Cut an epoch into batches.

        Training images are shuffled, the others are not. Everything random is a function of
        seed, epoch and the image's number, and the global generator is neither read nor
        changed: ``start=k`` gives the very batches that an uninterrupted epoch gives from
        batch k on, and the ranks together see what one process with a batch of
        ``batch_size * world_size`` sees. In training every rank has the same number of equal
        batches, for which up to ``world_size - 1`` images of an epoch are dropped, and a last
        batch of a single image for each rank is left out (``2 * world_size - 1`` images at most);
        of the others each is seen exactly once, and a rank may have a batch less than another.

        Args:
            split: ``"train"``, ``"validation"`` or ``"test"``.
            batch_size: images in a batch of this process.
            device: where the batches are wanted.
            seed: seed of the run.
            epoch: number of the epoch.
            start: number of batches to leave out at the beginning.
            rank: this process.
            world_size: number of processes.
            augment: whether to augment; by default the training images only.
            drop_last: leave out the last batch if it is not full.

        Returns:
            The batches; iterating again gives the same ones again.

        Raises:
            ConfigurationError: for impossible arguments, if no training batch is left, and if
                there are no validation images.
        """
        images = self.split(split)
        if batch_size < 1:
            raise ConfigurationError(f"batch_size is {batch_size}; it must be at least 1")
        if not 0 <= rank < world_size:
            raise ConfigurationError(f"rank {rank} is not in 0 to {world_size - 1} (world_size)")
        training = split == "train"
        cut = shares(len(images), batch_size, rank, world_size, even=training, drop_last=drop_last)
        if training and not cut:
            raise ConfigurationError(
                f"batch_size {batch_size} on {world_size} processes leaves no batch of the "
                f"{len(images)} training images of '{self.name}'; make it smaller"
            )
        if not 0 <= start <= len(cut):
            raise ConfigurationError(
                f"start is {start}, but the epoch has {len(cut)} batches; is batch_size the same?"
            )
        return Batches(
            self,
            images,
            cut[start:],
            device,
            seed,
            epoch,
            training,
            training if augment is None else augment,
        )


@dataclass(frozen=True)
class Batches:
    """Batches of one epoch: an iterable with a length, made by :meth:`DataSet.batches`.

    Yields images, float32 ``(batch, channels, height, width)``, normalised as
    ``(x / 255 - mean) / std``, and labels, int64 ``(batch,)``, both on the device.
    """

    data: DataSet
    split: Split
    shares: list[slice]
    device: torch.device
    seed: int
    epoch: int
    shuffle: bool
    augment: bool

    def __len__(self) -> int:
        return len(self.shares)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        count = len(self.split)
        order = permutation(count, self.seed, self.epoch) if self.shuffle else torch.arange(count)
        mean, std = (
            torch.tensor(value, device=self.device).view(-1, 1, 1)
            for value in (self.data.mean, self.data.std)
        )
        scale, shift = 1 / (255 * std), mean / std
        for images, labels in self.split.fetch(
            order,
            self.shares,
            device=self.device,
            seed=self.seed,
            epoch=self.epoch,
            augment=self.augment,
        ):
            yield images.mul_(scale).sub_(shift), labels


def statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Compute mean and standard deviation of images, per channel.

    Args:
        images: uint8 ``(n, channels, height, width)``.

    Returns:
        Mean and (population) standard deviation, where white is 1. A channel that never
        changes has the standard deviation 1, so that one can divide by it.
    """
    count = images[:, 0].numel()
    total = torch.zeros(images.shape[1], dtype=torch.float64)
    squares = torch.zeros_like(total)
    # Sums of whole numbers below 2**53 are exact in float64, in any order and on any machine; in
    # parts, because float64 takes eight times the memory.
    for part in in_parts(images, images.shape[1:].numel()):
        wide = part.double()
        total += wide.sum((0, 2, 3))
        squares += wide.square_().sum((0, 2, 3))
    mean = total / count
    variance = squares / count - mean.square()
    std = torch.where(variance > 0, variance.sqrt(), 255.0)
    return tuple((mean / 255).tolist()), tuple((std / 255).tolist())
