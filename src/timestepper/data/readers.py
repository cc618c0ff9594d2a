"""Data sets that come as one array: digits, Fashion-MNIST, CIFAR-10 and CIFAR-100."""

from __future__ import annotations

import gzip
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timestepper.data.locate import download_folder, locate, roots
from timestepper.errors import DataError, first_line

IDX_ERRORS = (
    *(OSError, EOFError, zlib.error),
    *(AssertionError, TypeError, ValueError, LookupError, RuntimeError, OverflowError),
)
"""What gzip and torchvision's readers raise for files that are no whole idx files."""


@dataclass(frozen=True)
class Arrays:
    """A data set in memory: images uint8 ``(n, channels, height, width)``, labels int64."""

    classes: tuple[str, ...]
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor


def read_digits(data_dir: Path | None, download: bool) -> Arrays:
    """Read scikit-learn's 1,797 digits of 8x8 pixels; every fifth of each class is for testing.

    Args:
        data_dir: without effect, the digits are part of scikit-learn.
        download: without effect.

    Returns:
        Images of one channel, grey levels 0 to 16 stretched to 0 to 255.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy(digits.images).mul(255 / 16).round().to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    test = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(10):
        test[torch.nonzero(labels == label).flatten()[4::5]] = True
    classes = tuple(str(label) for label in range(10))
    return Arrays(classes, images[~test], labels[~test], images[test], labels[test])


def read_fashion_mnist(data_dir: Path | None, download: bool) -> Arrays:
    """Read the four idx files of Fashion-MNIST, compressed or not.

    Args:
        data_dir: a folder to search first.
        download: fetch them if they are nowhere.

    Returns:
        Images of one channel, 28x28.

    Raises:
        DataError: if they are missing or broken.
    """
    from torchvision.datasets import FashionMNIST

    # A download that broke off has only the first of its files, and is to be made again.
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte") if download else ("images-idx3-ubyte",)
    stems = [f"{split}-{kind}" for split in ("train", "t10k") for kind in kinds]
    folder = _find_or_download(
        "fashion-mnist",
        FashionMNIST,
        data_dir,
        download,
        places=("", "fashion-mnist", "FashionMNIST/raw"),
        holds=lambda folder: all(_idx_file(folder, stem).is_file() for stem in stems),
        remedy="install the Debian package dataset-fashion-mnist, or pass --data.download true, "
        "or --data.data_dir with the folder that holds train-images-idx3-ubyte.gz",
    )
    classes = tuple(FashionMNIST.classes)
    train = _read_idx_pair(folder, "train", len(classes))
    test = _read_idx_pair(folder, "t10k", len(classes))
    if train[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{folder} has training and test images of different sizes; get all again")
    return Arrays(classes, *train, *test)


def read_cifar10(data_dir: Path | None, download: bool) -> Arrays:
    """Read the official Python version of CIFAR-10; see :func:`_read_cifar`."""
    from torchvision.datasets import CIFAR10

    return _read_cifar("cifar10", CIFAR10, data_dir, download)


def read_cifar100(data_dir: Path | None, download: bool) -> Arrays:
    """Read the official Python version of CIFAR-100, fine labels; see :func:`_read_cifar`."""
    from torchvision.datasets import CIFAR100

    return _read_cifar("cifar100", CIFAR100, data_dir, download)


def _read_cifar(name: str, reader: Any, data_dir: Path | None, download: bool) -> Arrays:
    """Read CIFAR through torchvision, which compares checksums before it unpickles anything.

    Args:
        name: name of the data set.
        reader: torchvision's class.
        data_dir: a folder to search first.
        download: fetch the files if they are nowhere.

    Returns:
        Images of three channels, 32x32.

    Raises:
        DataError: if files are missing or not the official ones.
    """
    root = _find_or_download(
        name,
        reader,
        data_dir,
        download,
        places=("", name),
        holds=lambda folder: (folder / reader.base_folder).is_dir(),
        remedy="pass --data.download true, or --data.data_dir with the folder that holds "
        f"{reader.base_folder}/ (unpacked from {reader.filename})",
    )
    try:
        train, test = reader(root, train=True), reader(root, train=False)
    except RuntimeError as error:
        raise DataError(
            f"{root / reader.base_folder} is incomplete or not the official {name} (its checksums "
            f"differ); remove it and unpack {reader.filename} again"
        ) from error
    halves = [
        (torch.from_numpy(half.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(half.targets))
        for half in (train, test)
    ]
    return Arrays(tuple(train.classes), *halves[0], *halves[1])


def _find_or_download(
    name: str, reader: Any, data_dir: Path | None, download: bool, **search: Any
) -> Path:
    try:
        return locate(name, roots(data_dir), **search)
    except DataError:
        if not download:
            raise
    target = download_folder(data_dir)
    try:
        reader(target, download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"data set '{name}' could not be downloaded to {target} ({first_line(error)}); fetch "
            "it by other means and pass --data.data_dir"
        ) from error
    return locate(name, [target], **search)


def _idx_file(folder: Path, stem: str) -> Path:
    plain = folder / stem
    return plain if plain.is_file() else folder / f"{stem}.gz"


def _read_idx_pair(folder: Path, split: str, classes: int) -> tuple[Tensor, Tensor]:
    from torchvision.datasets.mnist import read_image_file, read_label_file

    images: Tensor = _read_idx(_idx_file(folder, f"{split}-images-idx3-ubyte"), read_image_file)
    labels_file = _idx_file(folder, f"{split}-labels-idx1-ubyte")
    labels: Tensor = _read_idx(labels_file, read_label_file)
    if len(images) != len(labels) or not images.numel():
        raise DataError(
            f"{labels_file} has {len(labels)} labels for {len(images)} images of "
            f"{images.shape[1]}x{images.shape[2]} pixels; get both again"
        )
    if labels.max() >= classes:
        raise DataError(
            f"{labels_file} has the label {labels.max()}, and there are {classes} classes only; "
            "remove it and get it again"
        )
    return images.unsqueeze(1), labels


def _read_idx(path: Path, reader: Any) -> Any:
    """Call one of torchvision's readers of idx files, which take nothing compressed."""
    try:
        if path.suffix != ".gz":
            return reader(str(path))
        with tempfile.NamedTemporaryFile() as plain, gzip.open(path) as packed:
            shutil.copyfileobj(packed, plain)
            plain.flush()
            return reader(plain.name)
    except IDX_ERRORS as error:
        raise DataError(
            f"{path} is missing or no whole idx file; remove it and get it again"
        ) from error
