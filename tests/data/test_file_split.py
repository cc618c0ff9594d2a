from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import torch
from PIL import Image
from torchvision import transforms

from timestepper.data import file_split, images, load
from timestepper.data.order import AUGMENTATION, generator
from timestepper.data.workers import living_workers
from timestepper.errors import DataError

CPU = torch.device("cpu")
SIDE = 28


@pytest.fixture
def folder(make_folder):
    return make_folder(sizes=[(50, 40), (33, 61), (90, 12)], test_name="val")


def batches(folder, workers=0, split="train", **arguments):
    data = load("imagenet", data_dir=folder, image_size=SIDE, workers=workers)
    return list(data.batches(split, 4, device=CPU, **arguments))


def same(some, others):
    return len(some) == len(others) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(some, others, strict=True)
    )


def test_default_size_and_statistics(folder):
    data = load("imagenet", data_dir=folder)
    assert data.image_size == (224, 224)
    assert data.mean == (0.485, 0.456, 0.406)
    assert data.std == (0.229, 0.224, 0.225)


@pytest.mark.parametrize(("width", "height"), [(50, 40), (200, 20), (20, 200)])
def test_boxes_are_torchvisions(width, height):
    image = Image.new("RGB", (width, height))
    with torch.random.fork_rng():
        for seed in range(50):
            torch.manual_seed(seed)
            expected = transforms.RandomResizedCrop.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3))
            source = torch.Generator().manual_seed(seed)
            assert images.crop_box(height, width, source) == tuple(expected)


def test_training_images_are_torchvisions(folder):
    data = load("imagenet", data_dir=folder, image_size=SIDE, workers=0)
    order = torch.arange(12)
    arguments = {"device": CPU, "seed": 3, "epoch": 1, "augment": True}
    ((got, _),) = data.train.fetch(order, [slice(0, 12)], **arguments)
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIDE),
            transforms.RandomHorizontalFlip(),
            transforms.PILToTensor(),
        ]
    )
    for index, path in enumerate(data.train.paths):
        with torch.random.fork_rng():
            torch.set_rng_state(generator(3, 1, AUGMENTATION, index).get_state())
            expected = transform(Image.open(path))
        assert torch.equal(got[index], expected.float())


def test_test_images_are_torchvisions(folder):
    transform = transforms.Compose(
        [
            transforms.Resize(32),
            transforms.CenterCrop(28),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    paths = sorted((folder / "val").glob("*/*.png"))
    expected = torch.stack([transform(Image.open(path)) for path in paths])
    got = torch.cat([x for x, _ in batches(folder, split="test")])
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_workers_and_the_global_generator_change_nothing(folder):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = batches(folder, seed=2, epoch=5)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(first, batches(folder, workers=2, seed=2, epoch=5))
    assert not same(first, batches(folder, seed=2, epoch=6))


def test_start_resumes_bit_for_bit(folder):
    whole = batches(folder, seed=2, epoch=5)
    assert same(whole[1:], batches(folder, seed=2, epoch=5, start=1))
    assert batches(folder, start=3) == []


def test_ranks_together_see_what_one_process_sees(folder):
    one = batches(folder, seed=2)
    data = load("imagenet", data_dir=folder, image_size=SIDE, workers=0)
    ranks = [
        list(data.batches("train", 2, device=CPU, seed=2, rank=rank, world_size=2))
        for rank in range(2)
    ]
    joined = [
        tuple(torch.cat(parts) for parts in zip(*pair, strict=True))
        for pair in zip(*ranks, strict=True)
    ]
    assert same(one, joined)


@pytest.mark.parametrize("size", [(1, 600), (600, 1), (3, 600), (1, 19)])
def test_long_images_are_cut_before_they_are_resized(size, monkeypatch):
    resized = []
    resize = transforms.functional.resize
    monkeypatch.setattr(
        transforms.functional,
        "resize",
        lambda image, side: resized.append(image.size) or resize(image, side),
    )
    pixels = images.centre_crop(Image.linear_gradient("L").convert("RGB").resize(size), 28, 32)
    assert pixels.shape == (3, 28, 28)
    assert resized == [tuple(min(side, images.LONGEST * min(size)) for side in size)]
    middle = pixels.double().mean().item()
    assert middle == pytest.approx(127.5, abs=4)


def test_workers_are_deaf_to_ctrl_c():
    """It is the training that hears it; a worker that isn't forked would end by it."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        file_split._outlive_a_signal(0)
        signal.raise_signal(signal.SIGINT)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("workers", [0, 1])
def test_broken_image_is_named_in_one_line(folder, workers):
    broken = folder / "train" / "dog" / "2.png"
    broken.write_bytes(b"no image")
    with pytest.raises(DataError) as error:
        batches(folder, workers=workers)
    assert str(error.value).startswith(f"image {broken} cannot be read")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("while_batches_are", ["read", "taken"])
def test_a_worker_that_is_killed(folder, while_batches_are):
    """Torch's error comes out of whatever this process does when the system tells it."""
    data = load("imagenet", data_dir=folder, image_size=SIDE, workers=1)
    said = {"read": contextlib.suppress(RuntimeError), "taken": living_workers()}

    def take_and_kill():
        for _ in data.batches("train", 1, device=CPU):
            with said[while_batches_are]:
                (worker,) = multiprocessing.active_children()
                os.kill(worker.pid, signal.SIGKILL)
                worker.join()

    with pytest.raises(DataError, match=r"images was killed, .* set data\.workers lower, or 0$"):
        take_and_kill()


LEAVES = """
import atexit, multiprocessing, sys

atexit.register(lambda: print(*(worker.exitcode for worker in workers)))  # the last of all
import torch
from timestepper.data import file_split, load

file_split.SECONDS_TO_LEAVE = 2
data = load("imagenet", data_dir=sys.argv[1], image_size=28, workers=2)
batches = iter(data.batches("train", 1, device=torch.device("cpu")))
next(batches)
workers = multiprocessing.active_children()
"""


def test_workers_end_by_themselves_with_a_process_that_leaves_batches(folder):
    """And not by a signal, which they outlive for a minute."""
    command = [sys.executable, "-c", LEAVES, folder]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "0 0\n", "")
