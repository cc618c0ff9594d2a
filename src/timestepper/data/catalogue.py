"""The data sets that have a name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from timestepper.data import cache
from timestepper.data.crop_flip import CropFlip
from timestepper.data.dataset import DataSet, statistics
from timestepper.data.folder import load_folder
from timestepper.data.locate import locate, named_roots, roots
from timestepper.data.readers import (
    Arrays,
    read_cifar10,
    read_cifar100,
    read_digits,
    read_fashion_mnist,
)
from timestepper.data.resize import require_memory, resize
from timestepper.data.splits import MemorySplit
from timestepper.errors import ConfigurationError, DataError, did_you_mean
from timestepper.files import expanded


@dataclass(frozen=True)
class _ArraySource:
    """A data set that comes as one array, and how its training images are augmented."""

    read: Callable[[Path | None, bool], Arrays]
    augmentation: CropFlip


@dataclass(frozen=True)
class _FolderSource:
    """A data set of image files.

    Attributes:
        test_names: what the folder of test images may be called.
        keep_small: whether small images live in memory.
        places: where in a folder of data sets it may be.
        named_only: look only where the user said, and not in the usual places.
    """

    test_names: tuple[str, ...]
    keep_small: bool
    places: tuple[str, ...]
    named_only: bool


# A mirrored digit is another sign, or none; clothes and things stay what they are.
SOURCES: dict[str, _ArraySource | _FolderSource] = {
    "digits": _ArraySource(read_digits, CropFlip(padding=1, flip=False)),
    "fashion-mnist": _ArraySource(read_fashion_mnist, CropFlip(padding=2, flip=True)),
    "cifar10": _ArraySource(read_cifar10, CropFlip(padding=4, flip=True)),
    "cifar100": _ArraySource(read_cifar100, CropFlip(padding=4, flip=True)),
    "imagefolder": _FolderSource(
        test_names=("test", "val"), keep_small=True, places=("",), named_only=True
    ),
    # ImageNet's own test images have no labels: its validation images are what one tests on.
    "imagenet": _FolderSource(
        test_names=("val", "test"), keep_small=False, places=("", "imagenet"), named_only=False
    ),
}


def list_data_sets() -> list[str]:
    """Name the data sets that :func:`load` knows."""
    return list(SOURCES)


def load(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    image_size: int | None = None,
    workers: int = 2,
) -> DataSet:
    """Load a data set by its name.

    Files are looked for in ``data_dir``, then in the folder that the environment variable
    ``TIMESTEPPER_DATA`` names, then in ``./data``, in ``timestepper/data`` of the user's cache
    folder, and in ``/usr/share/datasets``. An ``imagefolder`` is only looked for in the
    first that is given of ``data_dir`` and ``TIMESTEPPER_DATA``.

    Args:
        name: ``digits``, ``fashion-mnist``, ``cifar10``, ``cifar100``, ``imagefolder`` or
            ``imagenet``.
        data_dir: where the files are; for image folders, the folder that holds ``train/``.
        cache_dir: where decoded image folders are kept; by default ``timestepper`` in the
            user's cache folder.
        download: fetch missing files of Fashion-MNIST and CIFAR. Nothing is fetched otherwise.
        image_size: side of the squares to resize images to, and augmentation's shifts with them.
        workers: processes that read image files; 0 reads them in this one.

    Returns:
        The data set.

    Raises:
        DataError: for an unknown name, and for files that are missing or broken.
        ConfigurationError: for an impossible ``image_size`` or number of workers.
    """
    source = SOURCES.get(name)
    if source is None:
        hint = did_you_mean(name, SOURCES) or f"; there are {', '.join(SOURCES)}"
        raise DataError(f"no data set is called '{name}'{hint}")
    if workers < 0:
        raise ConfigurationError(f"workers is {workers}; it must be 0 or more")
    if image_size is not None and image_size < 1:
        raise ConfigurationError(f"image_size is {image_size}; it must be 1 or more")
    folder = None if data_dir is None else expanded(data_dir)
    if isinstance(source, _ArraySource):
        arrays, augmentation = source.read(folder, download), source.augmentation
        if image_size is not None:
            require_memory((arrays.train_images, arrays.test_images), image_size)
            augmentation = _scaled(augmentation, image_size / arrays.train_images.shape[-1])
            arrays = replace(
                arrays,
                train_images=resize(arrays.train_images, image_size),
                test_images=resize(arrays.test_images, image_size),
            )
        return _from_arrays(name, arrays, augmentation)
    searched = named_roots(folder)[:1] if source.named_only else roots(folder)
    found = locate(
        name,
        searched,
        source.places,
        lambda place: (place / "train").is_dir(),
        "name the folder that holds train/ and "
        + " or ".join(f"{test}/" for test in source.test_names)
        + " with --data.data_dir; a run's is in its configuration.yaml",
    )
    return load_folder(
        name,
        found,
        test_names=source.test_names,
        keep_small=source.keep_small,
        cache_dir=cache.default_folder() if cache_dir is None else expanded(cache_dir),
        image_size=image_size,
        workers=workers,
    )


def _scaled(augmentation: CropFlip, factor: float) -> CropFlip:
    """Shift resized images by the same share of their size."""
    return replace(augmentation, padding=round(factor * augmentation.padding))


def _from_arrays(name: str, arrays: Arrays, augmentation: CropFlip) -> DataSet:
    mean, std = statistics(arrays.train_images)
    _, channels, height, width = arrays.train_images.shape
    return DataSet(
        name=name,
        classes=arrays.classes,
        channels=channels,
        image_size=(height, width),
        mean=mean,
        std=std,
        train=MemorySplit(arrays.train_images, arrays.train_labels, augmentation),
        test=MemorySplit(arrays.test_images, arrays.test_labels, augmentation),
    )
