from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from timestepper.data import decode, load
from timestepper.data.file_split import FileSplit
from timestepper.data.splits import MemorySplit
from timestepper.errors import DataError


def pixels(folder, split):
    paths = sorted((folder / split).glob("*/*.png"))
    return np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2)


def count_decodes(monkeypatch):
    """Count how often a folder is decoded."""
    calls = []
    original = decode.decode_all

    def counted(paths, *arguments, **keywords):
        calls.append(len(paths))
        return original(paths, *arguments, **keywords)

    monkeypatch.setattr("timestepper.data.folder.decode_all", counted)
    return calls


@pytest.mark.parametrize("test_name", ["test", "val"])
def test_small_folder(make_folder, test_name):
    folder = make_folder(sizes=[(16, 24)], test_name=test_name)
    data = load("imagefolder", data_dir=folder)
    assert isinstance(data.train, MemorySplit)
    assert data.classes == ("cat", "dog")
    assert data.image_size == (24, 16)
    assert np.array_equal(data.train.images.numpy(), pixels(folder, "train"))
    assert np.array_equal(data.test.images.numpy(), pixels(folder, test_name))
    assert data.train.labels.tolist() == [0] * 6 + [1] * 6
    assert (data.train.augmentation.padding, data.train.augmentation.flip) == (2, True)
    assert len(data.mean) == 3


def test_worker_processes_decode_the_same(make_folder, monkeypatch):
    monkeypatch.setattr(decode, "CHUNK", 4)
    state = torch.get_rng_state()
    folder = make_folder()
    data = load("imagefolder", data_dir=folder, workers=2)
    assert np.array_equal(data.train.images.numpy(), pixels(folder, "train"))
    assert torch.equal(state, torch.get_rng_state())


def test_files_that_are_no_images_are_named(make_folder, caplog):
    folder = make_folder()
    for name in ("a.gif", "notes.txt", ".hidden"):
        (folder / "train" / "dog" / name).write_bytes(b"")
    load("imagefolder", data_dir=folder)
    (warning,) = caplog.messages
    assert warning.startswith(
        f"files left out of {folder / 'train'}: 2, such as {folder / 'train' / 'dog' / 'a.gif'}; "
        "images are taken from .jpg .jpeg "
    )


@pytest.mark.parametrize("name", ["images", os.fsdecode(b"d\xe9ta"), os.fsdecode(b"\xe9/images")])
def test_names_that_are_no_text(name, make_folder):
    folder = make_folder(name)
    image = folder / "train" / "dog" / "1.png"
    image.rename(image.with_name(os.fsdecode(b"caf\xe9.png")))
    assert len(load("imagefolder", data_dir=folder).train) == 12
    assert len(load("imagefolder", data_dir=folder).train) == 12  # from the cache


@pytest.mark.parametrize(("dtype", "mode"), [(np.uint16, "I;16"), (np.float32, "F")])
def test_pixels_of_more_than_8_bits_are_refused(dtype, mode, make_folder):
    folder = make_folder()
    (folder / "train" / "dog" / "1.png").unlink()
    Image.fromarray(np.full((8, 8), 200, dtype)).save(folder / "train" / "dog" / "1.tiff")
    with pytest.raises(DataError, match=rf"1\.tiff has 16 bits .* mode {mode}\); convert it to 8"):
        load("imagefolder", data_dir=folder)


def test_folder_from_the_environment(make_folder, monkeypatch):
    monkeypatch.setenv("TIMESTEPPER_DATA", str(make_folder()))
    assert len(load("imagefolder").test) == 6


def test_a_mistyped_folder_is_not_replaced_by_another(make_folder, monkeypatch, tmp_path):
    monkeypatch.setenv("TIMESTEPPER_DATA", str(make_folder()))
    with pytest.raises(DataError, match="was not found in"):
        load("imagefolder", data_dir=tmp_path / "foldr")


def test_grey_images_become_colour_images(make_folder):
    folder = make_folder()
    path = folder / "train" / "cat" / "0.png"
    Image.open(path).convert("L").save(path)
    image = load("imagefolder", data_dir=folder).train.images[0]
    assert torch.equal(image[0], image[2])


def test_cache(make_folder, monkeypatch, tmp_path):
    folder, kept = make_folder(), tmp_path / "kept"
    calls = count_decodes(monkeypatch)
    first = load("imagefolder", data_dir=folder, cache_dir=kept)
    again = load("imagefolder", data_dir=folder, cache_dir=kept)
    assert calls == [12, 6]
    assert torch.equal(first.train.images, again.train.images)
    assert torch.equal(first.test.images, again.test.images)
    assert [path.suffix for path in kept.iterdir()] == [".safetensors"]


@pytest.mark.parametrize("change", ["content", "time", "added", "removed", "renamed"])
def test_cache_notices_changes(make_folder, monkeypatch, change):
    folder = make_folder()
    calls = count_decodes(monkeypatch)
    load("imagefolder", data_dir=folder)
    path = folder / "test" / "dog" / "1.png"
    if change == "content":
        Image.new("RGB", (8, 8)).save(path)
    elif change == "time":
        os.utime(path, ns=(1, 1))
    elif change == "added":
        shutil.copy(path, path.with_name("new.png"))
    elif change == "removed":
        path.unlink()
    else:
        path.rename(path.with_name("renamed.png"))
    data = load("imagefolder", data_dir=folder)
    assert len(calls) == 4
    assert np.array_equal(data.test.images.numpy(), pixels(folder, "test"))
    load("imagefolder", data_dir=folder)
    assert len(calls) == 4


def test_folders_and_sizes_do_not_share_a_cache(make_folder, monkeypatch):
    calls = count_decodes(monkeypatch)
    folders = [make_folder(name) for name in ("a", "b")]
    for _ in range(2):
        for folder in folders:
            for size in (None, 4, 6):
                side = size or 8
                data = load("imagefolder", data_dir=folder, image_size=size)
                assert data.image_size == (side, side)
    assert len(calls) == 2 * 2 * 3


def test_broken_cache_is_replaced(make_folder, monkeypatch, tmp_path, caplog):
    folder, kept = make_folder(), tmp_path / "kept"
    calls = count_decodes(monkeypatch)
    load("imagefolder", data_dir=folder, cache_dir=kept)
    next(kept.iterdir()).write_bytes(b"broken")
    for _ in range(2):
        load("imagefolder", data_dir=folder, cache_dir=kept)
    assert len(calls) == 4
    assert "cannot be read" in caplog.text


def test_unwritable_cache_is_a_warning(make_folder, tmp_path, caplog):
    (tmp_path / "file").touch()
    data = load("imagefolder", data_dir=make_folder(), cache_dir=tmp_path / "file" / "kept")
    assert len(data.train) == 12
    assert "not kept" in caplog.text


def test_failed_write_leaves_nothing_behind(make_folder, monkeypatch, tmp_path, caplog):
    def fail(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr("safetensors.torch.save_file", fail)
    load("imagefolder", data_dir=make_folder(), cache_dir=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())
    assert "disk full" in caplog.text


def test_interrupted_write_leaves_nothing_behind(make_folder, monkeypatch, tmp_path):
    def interrupted(tensors, path, **_):
        Path(path).write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr("safetensors.torch.save_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        load("imagefolder", data_dir=make_folder(), cache_dir=tmp_path / "kept")
    assert not list((tmp_path / "kept").iterdir())


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_others_may_read_the_cache_as_the_umask_says(make_folder, tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        load("imagefolder", data_dir=make_folder(), cache_dir=tmp_path / "kept")
    finally:
        os.umask(before)
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.stat().st_mode & 0o777 == mode


def test_images_of_several_sizes_are_read_from_files(make_folder, caplog):
    data = load("imagefolder", data_dir=make_folder(sizes=[(8, 8), (9, 8)]))
    assert isinstance(data.train, FileSplit)
    assert data.image_size == (224, 224)
    assert "differ in size" in caplog.text


def test_image_size_brings_several_sizes_into_memory(make_folder):
    folder = make_folder(sizes=[(80, 100), (90, 70)])
    data = load("imagefolder", data_dir=folder, image_size=16)
    assert isinstance(data.train, MemorySplit)
    image = Image.open(folder / "train" / "cat" / "0.png").resize((16, 20), Image.BILINEAR)
    expected = np.asarray(image.crop((0, 2, 16, 18))).transpose(2, 0, 1)
    assert np.array_equal(data.train.images[0].numpy(), expected)


def test_too_much_for_memory_is_read_from_files(make_folder, monkeypatch, caplog):
    monkeypatch.setattr("timestepper.data.folder.SMALL_BYTES", 3 * 8 * 8 * 18 - 1)
    data = load("imagefolder", data_dir=make_folder())
    assert isinstance(data.train, FileSplit)
    assert data.image_size == (224, 224)
    (warning,) = caplog.messages
    assert warning.startswith("images of 8x8 take 0.0 GiB, too much to keep: reading them from")
    assert "resized to 224; image_size" in warning


@pytest.mark.parametrize("broken", ["train/cat/0.png", "train/dog/3.png", "test/dog/2.png"])
@pytest.mark.parametrize("workers", [0, 2])
def test_broken_image(make_folder, monkeypatch, broken, workers):
    monkeypatch.setattr(decode, "CHUNK", 4)
    folder = make_folder()
    content = (folder / broken).read_bytes()
    for damage in (b"", b"no image", content[: len(content) // 2]):
        (folder / broken).write_bytes(damage)
        with pytest.raises(DataError) as error:
            load("imagefolder", data_dir=folder, workers=workers)
        assert str(error.value).startswith(f"image {folder / broken} cannot be read")
        assert "\n" not in str(error.value)


def test_damaged_tiff(make_folder):
    """Where its pixels are is no whole number any more."""
    folder = make_folder()
    tiff = folder / "train" / "dog" / "1.tiff"
    Image.new("RGB", (8, 8)).save(tiff)
    tag, whole_number, double = 273, 4, 12
    where = struct.pack("<HH", tag, whole_number)
    assert where in tiff.read_bytes()
    tiff.write_bytes(tiff.read_bytes().replace(where, struct.pack("<HH", tag, double)))
    with pytest.raises(
        DataError, match=rf"image {tiff} cannot be read \('float' object .*\); mend"
    ):
        load("imagefolder", data_dir=folder)


@pytest.mark.parametrize("raised", [MemoryError, OSError, RuntimeError, NotImplementedError])
def test_image_that_cannot_be_read_without_a_word(make_folder, monkeypatch, raised):
    def fail(*_):
        raise raised

    monkeypatch.setattr("PIL.Image.open", fail)
    with pytest.raises(DataError, match=rf"0\.png cannot be read \({raised.__name__}\); mend"):
        load("imagefolder", data_dir=make_folder())


def test_order_of_images_is_torchvisions(make_folder):
    folder = make_folder()
    for number, inner in enumerate(("2", "2.png.old", "a/b", "a-b", "1")):
        within = folder / "train" / "dog" / inner
        within.mkdir(parents=True)
        shutil.copy(folder / "test" / "dog" / f"{number % 3}.png", within / f"{number}.png")
    (folder / "train" / "dog" / "linked").symlink_to(folder / "test" / "cat")
    data = load("imagenet", data_dir=folder)
    expected = ImageFolder(str(folder / "train")).samples
    assert list(zip(data.train.paths, data.train.labels.tolist(), strict=True)) == expected
    assert len(expected) == 12 + 5 + 3


@pytest.mark.parametrize("unreadable", ["train", "train/dog", "train/dog/more"])
def test_folder_that_cannot_be_read(make_folder, monkeypatch, unreadable):
    folder = make_folder()
    (folder / "train" / "dog" / "more").mkdir()
    scandir = os.scandir

    def refused(path):
        if Path(path) == folder / unreadable:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)  # root may read all
    with pytest.raises(DataError) as error:
        load("imagefolder", data_dir=folder)
    assert str(error.value) == (
        f"{folder / unreadable} cannot be read (Permission denied); mend or remove it"
    )


@pytest.mark.parametrize("link", ["train/dog/again", "train/dog/a/again", "train/again"])
@pytest.mark.parametrize("target", ["train", "train/dog", "."])
def test_link_to_a_folder_that_it_is_in(make_folder, link, target):
    folder = make_folder()
    (folder / link).parent.mkdir(exist_ok=True)
    (folder / link).symlink_to(folder / target)
    if (link, target) == ("train/again", "train/dog"):
        # A second name of a class is odd, but has an end.
        (folder / "test" / "again").symlink_to(folder / "test" / "dog")
        assert load("imagefolder", data_dir=folder).classes == ("again", "cat", "dog")
        return
    with pytest.raises(DataError, match=r"/again.* leads back to a folder that it is in; remove"):
        load("imagefolder", data_dir=folder)


@pytest.mark.parametrize(
    ("target", "reason"),
    [("nowhere", "No such file or directory"), ("7.png", "Too many levels of symbolic links")],
)
def test_link_to_no_image(make_folder, target, reason):
    folder = make_folder()
    link = folder / "train" / "dog" / "7.png"
    link.symlink_to(target)
    with pytest.raises(DataError) as error:
        load("imagefolder", data_dir=folder)
    assert f"{link} cannot be read ({reason}); mend or remove it" in str(error.value)


def test_folder_errors(make_folder, tmp_path):
    def message(folder):
        with pytest.raises(DataError) as error:
            load("imagefolder", data_dir=folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    folder = make_folder("a")
    shutil.rmtree(folder / "test")
    assert "needs train/CLASS/ and test/CLASS/ or val/CLASS/" in message(folder)

    (folder / "test").mkdir()
    assert f"{folder / 'test'} has no class folders" in message(folder)

    folder = make_folder("b")
    shutil.rmtree(folder / "test" / "dog")
    assert "class 'dog' is in only one of" in message(folder)

    folder = make_folder("c")
    for path in (folder / "train" / "dog").iterdir():
        path.unlink()
    assert f"class folder {folder / 'train' / 'dog'} has no images" in message(folder)

    (tmp_path / "empty").mkdir()
    assert "was not found" in message(tmp_path / "empty")
