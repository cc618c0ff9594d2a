"""Image folders, ``train/CLASS/*.jpg`` and ``test/CLASS/*.jpg`` (or ``val/``)."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from timestepper.data import cache, images
from timestepper.data.crop_flip import CropFlip
from timestepper.data.dataset import DataSet, statistics
from timestepper.data.decode import OtherSizeError, decode_all
from timestepper.data.file_split import FileSplit
from timestepper.data.splits import MemorySplit
from timestepper.errors import DataError
from timestepper.files import is_text

log = logging.getLogger(__name__)

SMALL_SIDE = 64  # pixels
SMALL_BYTES = 2 * 2**30
DEFAULT_SIDE = 224
SIZES = 1000
"""Files of a split whose sizes tell it from others, about."""
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class _Files:
    """The files of one split, in the order of their names, the class of each, a digest of all."""

    paths: list[str]
    labels: list[int]
    digest: str


def load_folder(
    name: str,
    folder: Path,
    *,
    test_names: Sequence[str],
    keep_small: bool,
    cache_dir: Path,
    image_size: int | None,
    workers: int,
) -> DataSet:
    """Load a folder of images.

    Images count as small if they are all of one size, or are resized to ``image_size``, if that
    is at most 64 pixels each way, and if they take at most 2 GiB. Those are decoded once and
    live in memory; all others are read from their files over and over. Grey images become
    colour images.

    Args:
        name: name of the data set.
        folder: where ``train/`` is.
        test_names: what the folder of test images may be called, the first that exists counts.
        keep_small: whether to keep small images in memory.
        cache_dir: where decoded images are kept.
        image_size: side of the squares that images are resized to; for large ones by default 224.
        workers: processes that read.

    Returns:
        The data set.

    Raises:
        DataError: if a folder is missing or empty, classes differ, or an image is broken.
    """
    test_folder = next((folder / n for n in test_names if (folder / n).is_dir()), None)
    if not (folder / "train").is_dir() or test_folder is None:
        raise DataError(
            f"{folder} is no image folder: it needs train/CLASS/ and "
            f"{' or '.join(f'{n}/CLASS/' for n in test_names)} with images in them"
        )
    classes, train = _scan(folder / "train")
    test_classes, test = _scan(test_folder)
    if classes != test_classes:
        odd = sorted(set(classes) ^ set(test_classes))[0]
        raise DataError(
            f"class '{odd}' is in only one of {folder / 'train'} and {test_folder}; "
            "both need the same class folders"
        )
    if keep_small:
        decoded = _small_images(folder, train, test, cache_dir, image_size, workers)
        if decoded is not None:
            train_images, test_images = decoded
            mean, std = statistics(train_images)
            height, width = train_images.shape[2:]
            augmentation = CropFlip(padding=min(height, width) // 8, flip=True)
            return DataSet(
                name=name,
                classes=classes,
                channels=3,
                image_size=(height, width),
                mean=mean,
                std=std,
                train=MemorySplit(
                    train_images, torch.tensor(train.labels), augmentation, train.digest
                ),
                test=MemorySplit(test_images, torch.tensor(test.labels), augmentation, test.digest),
            )
    side = image_size or DEFAULT_SIDE
    return DataSet(
        name=name,
        classes=classes,
        channels=3,
        image_size=(side, side),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        train=FileSplit(train.paths, train.labels, side, workers, train.digest),
        test=FileSplit(test.paths, test.labels, side, workers, test.digest),
    )


def _scan(folder: Path) -> tuple[tuple[str, ...], _Files]:
    from torchvision.datasets.folder import IMG_EXTENSIONS, has_file_allowed_extension

    identity, listed = _look_into(folder)
    classes = sorted(name for name, is_folder in listed if is_folder)
    if not classes:
        raise DataError(f"{folder} has no class folders; put the images of each class into one")
    for name in classes:
        if not is_text(name):
            raise DataError(f"the name of class folder {folder / name} is not UTF-8; rename it")
    paths: list[str] = []
    labels: list[int] = []
    left_out: list[str] = []
    for number, name in enumerate(classes):
        for within, file in sorted(_files(folder / name, (identity,))):
            path = f"{within}/{file}"
            if has_file_allowed_extension(file, IMG_EXTENSIONS):
                paths.append(path)
                labels.append(number)
            elif not file.startswith("."):
                left_out.append(path)
        if not labels or labels[-1] != number:
            raise DataError(f"class folder {folder / name} has no images; add or remove it")
    if left_out:
        log.warning(
            "files left out of %s: %d, such as %s; images are taken from %s",
            *(folder, len(left_out), min(left_out), " ".join(IMG_EXTENSIONS)),
        )
    return tuple(classes), _Files(paths, labels, _digest(folder, paths))


_Identity = tuple[int, int]
"""Device and number of a folder, by whatever path one came there."""


def _look_into(folder: Path) -> tuple[_Identity, list[tuple[str, bool]]]:
    """List the names in a folder, and whether each is a folder; links are followed."""
    try:
        status = folder.stat()
        with os.scandir(folder) as entries:
            listed = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError as error:
        raise _unreadable(str(error.filename), error) from error
    return (status.st_dev, status.st_ino), listed


def _files(folder: Path, above: tuple[_Identity, ...]) -> Iterator[tuple[str, str]]:
    """Give folder and name of all files in a folder, and in the folders within.

    Raises:
        DataError: a folder can't be read, or a link leads to one of those above it, whose images
            would come again and again.
    """
    identity, listed = _look_into(folder)
    if identity in above:
        raise DataError(
            f"{folder} leads back to a folder that it is in; remove the link in its path"
        )
    for name, is_folder in listed:
        if is_folder:
            yield from _files(folder / name, (*above, identity))
        else:
            yield str(folder), name


def _unreadable(what: str, error: OSError) -> DataError:
    return DataError(f"{what} cannot be read ({error.strerror}); mend or remove it")


def _small_images(
    folder: Path,
    train: _Files,
    test: _Files,
    cache_dir: Path,
    image_size: int | None,
    workers: int,
) -> tuple[Tensor, Tensor] | None:
    """Give the images of both splits, uint8 ``(n, 3, height, width)``, or None if not small."""
    if image_size is None:
        first = images.read(train.paths[0])
        height, width = first.height, first.width
    else:
        height = width = image_size
    size = 3 * height * width * (len(train.paths) + len(test.paths))
    if max(height, width) > SMALL_SIDE:
        return None
    if size > SMALL_BYTES:
        side = image_size or DEFAULT_SIDE
        log.warning(
            "images of %dx%d take %.1f GiB, too much to keep: reading them from their files, "
            "resized to %d; image_size says to what else",
            *(height, width, size / 2**30, side),
        )
        return None
    fingerprint = _fingerprint(folder, train.paths + test.paths)
    kept_in = cache.entry(cache_dir, folder, image_size)
    kept = cache.recall(kept_in, fingerprint)
    if kept is not None:
        return kept["train"], kept["test"]

    log.info("decoding %d images of %s", len(train.paths) + len(test.paths), folder)
    try:
        decoded = {
            split: decode_all(
                files.paths, (height, width), resize=image_size is not None, workers=workers
            )
            for split, files in (("train", train), ("test", test))
        }
    except OtherSizeError as error:
        log.warning(
            "images differ in size (%s, the first %dx%d): reading them from their files, resized "
            "to %d; an image_size of up to %d keeps them in memory",
            *(error, height, width, DEFAULT_SIDE, SMALL_SIDE),
        )
        return None
    cache.remember(kept_in, fingerprint, decoded)
    return decoded["train"], decoded["test"]


def _digest(folder: Path, paths: Sequence[str]) -> str:
    """Condense names within a folder and sizes of files, as they are wherever the folder lies.

    Of many files only some sizes: to ask for those of a million can take minutes.
    """
    some = paths[:: 1 + len(paths) // SIZES]
    facts = [path.removeprefix(str(folder)) for path in paths]
    facts += [str(_status(path).st_size) for path in some]
    return hashlib.sha256("\0".join(facts).encode(errors="surrogateescape")).hexdigest()


def _status(path: str) -> os.stat_result:
    try:
        return Path(path).stat()
    except OSError as error:
        raise _unreadable(f"image {path}", error) from error


def _fingerprint(folder: Path, paths: Sequence[str]) -> str:
    """Condense names, sizes and times of all files, so that a change of any is noticed."""
    digest = hashlib.sha256()
    for path in paths:
        status = _status(path)
        relative = path.removeprefix(str(folder))
        digest.update(
            f"{relative}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape")
        )
    return digest.hexdigest()
