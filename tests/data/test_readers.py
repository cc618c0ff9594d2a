from __future__ import annotations

import gzip
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch

from timestepper.data import list_data_sets, load
from timestepper.errors import ConfigurationError, DataError


def write_idx(path, array, pack=True):
    header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
    data = header + array.tobytes()
    path.write_bytes(gzip.compress(data) if pack else data)


@pytest.fixture
def fashion(tmp_path):
    """A Fashion-MNIST of 7 and 4 images."""

    def make(folder, pack=True):
        folder.mkdir(parents=True)
        arrays = {}
        random = np.random.default_rng(0)
        for split, count in (("train", 7), ("t10k", 4)):
            images = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            labels = random.integers(0, 10, count, dtype=np.uint8)
            suffix = ".gz" if pack else ""
            write_idx(folder / f"{split}-images-idx3-ubyte{suffix}", images, pack)
            write_idx(folder / f"{split}-labels-idx1-ubyte{suffix}", labels, pack)
            arrays[split] = images, labels
        return arrays

    return make


def test_digits():
    digits = load("digits")
    assert (len(digits.train), len(digits.test)) == (1442, 355)
    assert (digits.channels, digits.image_size, digits.num_classes) == (1, (8, 8), 10)
    both = torch.cat([digits.train.images, digits.test.images])
    assert both.dtype == torch.uint8
    assert (both.min(), both.max()) == (0, 255)
    counts = torch.bincount(digits.test.labels)
    assert counts.min() >= 34
    assert torch.equal(load("digits").test.images, digits.test.images)
    assert digits.train.augmentation.padding == 1
    assert not digits.train.augmentation.flip


@pytest.mark.parametrize("pack", [True, False])
def test_fashion_mnist(tmp_path, fashion, pack):
    arrays = fashion(tmp_path / "here", pack)
    data = load("fashion-mnist", data_dir=tmp_path / "here")
    for split, key in ((data.train, "train"), (data.test, "t10k")):
        assert np.array_equal(split.images[:, 0].numpy(), arrays[key][0])
        assert np.array_equal(split.labels.numpy(), arrays[key][1])
    assert (data.channels, data.image_size) == (1, (28, 28))
    assert data.classes[9] == "Ankle boot"


@pytest.mark.parametrize(
    "place",
    [
        "named/FashionMNIST/raw",
        "data/fashion-mnist",
        "cache/timestepper/data",
        "system/fashion-mnist",
    ],
)
def test_places_that_are_searched(tmp_path, fashion, monkeypatch, place):
    monkeypatch.setenv("TIMESTEPPER_DATA", str(tmp_path / "named"))
    fashion(tmp_path / place)
    assert len(load("fashion-mnist").train) == 7


def test_data_dir_comes_first(tmp_path, fashion, monkeypatch):
    arrays = fashion(tmp_path / "one")
    write_idx(tmp_path / "one" / "t10k-images-idx3-ubyte.gz", arrays["t10k"][0] // 2)
    fashion(tmp_path / "other")
    monkeypatch.setenv("TIMESTEPPER_DATA", str(tmp_path / "other"))
    assert load("fashion-mnist", data_dir=tmp_path / "one").test.images.max() < 128


def test_fashion_mnist_broken(tmp_path, fashion):
    folder = tmp_path / "here"
    fashion(folder)
    path = folder / "train-labels-idx1-ubyte.gz"
    write_idx(path, np.zeros(5, dtype=np.uint8))
    with pytest.raises(DataError, match=r"5 labels for 7 images"):
        load("fashion-mnist", data_dir=folder)
    for content in (b"no gzip", gzip.compress(b"no idx"), path.read_bytes()[:-12]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"train-labels.* get it again$"):
            load("fashion-mnist", data_dir=folder)
    path.unlink()
    with pytest.raises(DataError, match=r"train-labels.* is missing"):
        load("fashion-mnist", data_dir=folder)


def test_a_download_that_broke_off_is_made_again(tmp_path, fashion, monkeypatch):
    folder = tmp_path / "here"
    fashion(folder)
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    monkeypatch.setattr(
        "torchvision.datasets.FashionMNIST.download",
        lambda self: fashion(Path(self.raw_folder), pack=False),
    )
    assert len(load("fashion-mnist", data_dir=folder, download=True).train) == 7


def write_cifar10(folder):
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    arrays = []
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        entry = {
            "data": random.integers(0, 256, (2, 3072), dtype=np.uint8),
            "labels": random.integers(0, 10, 2).tolist(),
        }
        arrays.append(entry)
        (folder / name).write_bytes(pickle.dumps(entry))
    names = {"label_names": [f"class{i}" for i in range(10)]}
    (folder / "batches.meta").write_bytes(pickle.dumps(names))
    return arrays


def test_cifar10(tmp_path, monkeypatch):
    arrays = write_cifar10(tmp_path / "cifar-10-batches-py")
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    data = load("cifar10", data_dir=tmp_path)
    expected = np.concatenate([a["data"] for a in arrays[:5]]).reshape(-1, 3, 32, 32)
    assert np.array_equal(data.train.images.numpy(), expected)
    assert data.test.labels.tolist() == arrays[5]["labels"]
    assert data.classes[3] == "class3"
    assert (data.train.augmentation.padding, data.train.augmentation.flip) == (4, True)


@pytest.mark.parametrize(
    ("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")]
)
def test_cifar_that_is_not_the_official_one_is_not_unpickled(tmp_path, monkeypatch, name, folder):
    write_cifar10(tmp_path / folder)
    monkeypatch.setattr("pickle.load", lambda *_, **__: pytest.fail("unpickled"))
    with pytest.raises(DataError, match="checksums differ"):
        load(name, data_dir=tmp_path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("fashion-mnist", "dataset-fashion-mnist"),
        ("cifar10", "cifar-10-python.tar.gz"),
        ("cifar100", "cifar-100-python.tar.gz"),
        ("imagenet", "--data.data_dir"),
        ("imagefolder", "--data.data_dir"),
    ],
)
def test_missing(tmp_path, name, remedy):
    with pytest.raises(DataError) as error:
        load(name, data_dir=tmp_path / "nothing")
    message = str(error.value)
    assert "\n" not in message
    assert f"'{name}' was not found in {tmp_path / 'nothing'}" in message
    assert remedy in message


def test_image_folder_must_be_named():
    with pytest.raises(DataError, match=r"neither --data.data_dir nor TIMESTEPPER_DATA"):
        load("imagefolder")


@pytest.mark.parametrize(
    ("raised", "reason"), [(URLError("no route"), "no route"), (TimeoutError(), "TimeoutError")]
)
def test_download_that_fails(tmp_path, monkeypatch, raised, reason):
    def fail(self):
        raise raised

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", fail)
    with pytest.raises(
        DataError, match=rf"could not be downloaded to .*{reason}.*--data.data_dir$"
    ):
        load("cifar10", data_dir=tmp_path, download=True)


def test_download(tmp_path, monkeypatch):
    def fetch(self):
        write_cifar10(tmp_path / "cache/timestepper/data/cifar-10-batches-py")

    monkeypatch.setattr("torchvision.datasets.CIFAR10.download", fetch)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    with pytest.raises(DataError):
        load("cifar10")
    assert len(load("cifar10", download=True).train) == 10


def test_unknown_name():
    with pytest.raises(DataError, match="'cifar10'"):
        load("cifar-10")
    with pytest.raises(DataError, match="there are digits, "):
        load("xyz")
    assert "digits" in list_data_sets()


@pytest.mark.parametrize("arguments", [{"image_size": 0}, {"workers": -1}])
def test_impossible_arguments(arguments):
    with pytest.raises(ConfigurationError):
        load("digits", **arguments)


def test_importing_loads_no_reader():
    code = (
        "import sys, timestepper.data;"
        "assert not {'sklearn', 'torchvision', 'PIL'} & set(sys.modules), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
