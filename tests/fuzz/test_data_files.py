"""Files of data sets that are cut off, or are something else, or lie about what is in them."""

import gzip
import io
import pickle
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import damaged
from endings import assert_ends_clearly
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from timestepper.data import load
from timestepper.errors import DataError

SIZES = st.integers(0, 12) | st.sampled_from([28, 255, 2**16, 2**31 - 1, 2**32 - 1])


@st.composite
def idx(draw, dimensions, count):
    """An idx file: true, with a header that lies, or with labels that no class has."""
    shape = [count, 3, 3][:dimensions]
    values = np.random.default_rng(0).integers(0, 10, shape, dtype=np.uint8)
    kind, header = 8, list(shape)
    how = draw(st.sampled_from(["true", "lies", "kind", "values", "count"]))
    if how == "lies":
        header = draw(st.lists(SIZES, min_size=1, max_size=4))
    elif how == "kind":
        kind = draw(st.integers(0, 255))
    elif how == "values":
        values[...] = draw(st.integers(0, 255))
    elif how == "count":
        values = values[: draw(st.integers(0, count))]
        header = list(values.shape)
    content = struct.pack(f">HBB{len(header)}I", 0, kind, len(header), *header) + values.tobytes()
    return draw(damaged(content)) if draw(st.booleans()) else content


@given(st.data())
def test_idx(data):
    shutil.rmtree("fashion", ignore_errors=True)
    folder = Path("fashion")
    folder.mkdir()
    for split, count in (("train", 7), ("t10k", 4)):
        for name, dimensions in (("images-idx3", 3), ("labels-idx1", 1)):
            content = data.draw(idx(dimensions, count))
            suffix = ""
            if data.draw(st.booleans()):
                content, suffix = gzip.compress(content), ".gz"
                if data.draw(st.booleans()):
                    content = data.draw(damaged(content))
            (folder / f"{split}-{name}-ubyte{suffix}").write_bytes(content)
    try:
        images = load("fashion-mnist", data_dir=folder)
    except DataError as error:
        assert str(error).count("\n") == 0
        assert "fashion" in str(error)
    else:
        for split in (images.train, images.test):
            assert len(split.images) == len(split.labels) > 0
            assert split.labels.min() >= 0
            assert split.labels.max() < 10


@given(st.data())
def test_cifar(data):
    """Nothing but the official files is unpickled, whose checksums are known."""
    shutil.rmtree("cifar", ignore_errors=True)
    folder = Path("cifar/cifar-10-batches-py")
    folder.mkdir(parents=True)
    rows = np.zeros((4, 3072), np.uint8)
    content = pickle.dumps({"data": rows, "labels": data.draw(st.lists(st.integers(-5, 300)))})
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]:
        if data.draw(st.booleans()):
            (folder / name).write_bytes(data.draw(damaged(content) | st.just(content)))
    name = data.draw(st.sampled_from(["cifar10", "cifar100"]))
    try:
        load(name, data_dir=Path("cifar"))
    except DataError as error:
        assert str(error).count("\n") == 0
    else:
        raise AssertionError("these are not the official images")


@st.composite
def picture(draw):
    """An image file, of any kind, size and mode, whole or not."""
    size = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)) | st.just((8, 8)))
    mode = draw(st.sampled_from(["RGB", "L", "RGBA", "P", "1", "I;16", "CMYK"]))
    kind = draw(st.sampled_from(["PNG", "JPEG", "WEBP", "TIFF", "BMP", "PPM", "GIF"]))
    content = io.BytesIO()
    try:
        Image.new(mode, size, 1).save(content, kind)
    except (OSError, KeyError, ValueError):  # modes that this kind does not have
        Image.new("RGB", size).save(content, kind)
    whole = content.getvalue()
    return draw(damaged(whole)) if draw(st.booleans()) else whole


@given(st.data())
def test_images(images, data):
    shutil.rmtree("images", ignore_errors=True)
    folder = Path(shutil.copytree(images, "images"))
    paths = sorted(folder.rglob("*.png"))
    for path in data.draw(st.lists(st.sampled_from(paths), max_size=3, unique=True)):
        name = path.with_suffix(data.draw(st.sampled_from([".png", ".jpg", ".webp", ".tif", ".x"])))
        path.unlink()
        name.write_bytes(data.draw(picture()))
    if data.draw(st.booleans()):
        shutil.rmtree(folder / data.draw(st.sampled_from(["train", "test", "train/cat"])))
    size = data.draw(st.none() | st.integers(1, 12))
    name = data.draw(st.sampled_from(["imagefolder", "imagenet"]))
    try:
        loaded = load(name, data_dir=folder, image_size=size, workers=0)
        inputs, labels = next(iter(loaded.batches("test", 6, device=torch.device("cpu"))))
    except DataError as error:
        assert str(error).count("\n") == 0
        assert "images" in str(error)
    else:
        assert inputs.shape[1:] == (3, *loaded.image_size)
        assert labels.max() < len(loaded.classes)


@pytest.mark.slow
@settings(max_examples=settings.default.max_examples * 2 // 5)  # trainings take longer
@given(st.data())
def test_training(images, data):
    """What the command line makes of it."""
    shutil.rmtree("images", ignore_errors=True)
    folder = Path(shutil.copytree(images, "images"))
    paths = sorted(folder.rglob("*.png"))
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True)):
        path.write_bytes(data.draw(picture()))
    shutil.rmtree("run", ignore_errors=True)
    options = {
        "--network.name": "cifar_resnet8",
        "--data.name": "imagefolder",
        "--data.data_dir": "images",
        "--data.image_size": "8",
        "--epochs": "1",
        "--accelerator": "cpu",
        "--folder": "run",
    }
    words = [word for pair in options.items() for word in pair]
    assert_ends_clearly("train", *words, may_write=["run"])
