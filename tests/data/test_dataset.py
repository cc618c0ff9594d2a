from __future__ import annotations

import numpy as np
import pytest
import torch

from timestepper.data import DataSet, load
from timestepper.data.crop_flip import CropFlip
from timestepper.data.dataset import statistics
from timestepper.data.splits import AT_ONCE, MemorySplit
from timestepper.errors import ConfigurationError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data() -> DataSet:
    """Image i of the training images starts with the number i, so that it can be recognised."""
    images = torch.randint(0, 256, (53, 3, 8, 8), generator=torch.Generator()).to(torch.uint8)
    images[:, 0, 0, 0] = torch.arange(53)
    mean, std = statistics(images)
    train = MemorySplit(images, torch.arange(53) % 10, CropFlip(2, flip=True))
    test = MemorySplit(images[:23], torch.arange(23) % 10, CropFlip(2, flip=True))
    classes = tuple("abcdefghij")
    return DataSet("toy", classes, 3, (8, 8), mean, std, train, test)


def numbers(data, batches):
    """Which images the batches hold, if they are not augmented."""
    return [
        round((image[0, 0, 0].item() * data.std[0] + data.mean[0]) * 255)
        for images, _ in batches
        for image in images
    ]


def same(some, others):
    some, others = list(some), list(others)
    return len(some) == len(others) and all(
        torch.equal(x, other_x) and torch.equal(y, other_y)
        for (x, y), (other_x, other_y) in zip(some, others, strict=True)
    )


def test_statistics_against_numpy():
    images = torch.randint(0, 256, (5000, 2, 3, 4)).to(torch.uint8)
    mean, std = statistics(images)
    reference = images.numpy().astype(np.float64) / 255
    np.testing.assert_allclose(mean, reference.mean((0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(std, reference.std((0, 2, 3)), rtol=1e-12)


@pytest.mark.parametrize("part", [1, 24 * 7, 10**6])
def test_statistics_are_the_same_in_any_parts(part, monkeypatch):
    images = torch.randint(0, 256, (500, 2, 3, 4)).to(torch.uint8)
    whole = statistics(images)
    monkeypatch.setattr("timestepper.data.parts.PART", part)
    widest = []
    plain = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda x: widest.append(len(x)) or plain(x))
    assert statistics(images) == whole
    assert max(widest) == min(500, max(1, part // 24))


def test_statistics_of_a_constant_channel():
    assert statistics(torch.full((4, 1, 2, 2), 51, dtype=torch.uint8)) == ((0.2,), (1.0,))


@pytest.mark.parametrize("batches", [1, 2, 3, 100])
def test_batches_made_ready_together_are_the_same(data, batches, monkeypatch):
    """As on a GPU; the last one is smaller."""
    made = [data.batches(split, 7, device=CPU, start=1) for split in ("train", "test")]
    expected = [[(x.clone(), y) for x, y in one] for one in made]
    monkeypatch.setitem(AT_ONCE, "cpu", batches * 7 * 3 * 8 * 8)
    assert all(same(one, other) for one, other in zip(made, expected, strict=True))


def test_normalisation(data):
    (images, labels) = next(iter(data.batches("test", 23, device=CPU)))
    raw = data.test.images.double() / 255
    mean, std = (torch.tensor(v, dtype=torch.float64)[:, None, None] for v in (data.mean, data.std))
    assert images.dtype == torch.float32
    assert labels.dtype == torch.int64
    torch.testing.assert_close(images.double(), (raw - mean) / std, rtol=1e-5, atol=1e-6)
    assert torch.equal(labels, data.test.labels)


def test_padding_is_black_before_normalisation(data):
    images, _ = next(iter(data.batches("train", 53, device=CPU, epoch=1)))
    corners = images[:, :, 0, 0]
    black = -torch.tensor(data.mean) / torch.tensor(data.std)
    padded = (corners - black).abs().amax(1) < 1e-5
    assert 0.3 < padded.float().mean() < 0.95


def test_training_is_shuffled_and_augmented_and_test_is_not(data):
    plain = numbers(data, data.batches("train", 10, device=CPU, augment=False))
    assert sorted(plain) == list(range(53))
    assert plain != sorted(plain)
    assert numbers(data, data.batches("test", 10, device=CPU)) == list(range(23))
    augmented = data.batches("train", 10, device=CPU)
    assert not same(augmented, data.batches("train", 10, device=CPU, augment=False))


def test_deterministic_and_independent_of_the_global_generator(data):
    batches = data.batches("train", 10, device=CPU, seed=5, epoch=3)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = list(batches)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(2)
    assert same(first, batches)
    assert same(first, data.batches("train", 10, device=CPU, seed=5, epoch=3))
    assert not same(first, data.batches("train", 10, device=CPU, seed=5, epoch=4))
    assert not same(first, data.batches("train", 10, device=CPU, seed=6, epoch=3))


@pytest.mark.parametrize("start", [0, 1, 4, 6])
@pytest.mark.parametrize("split", ["train", "test"])
def test_start_resumes_bit_for_bit(data, split, start):
    whole = list(data.batches(split, 10, device=CPU, seed=1, epoch=2))
    start = min(start, len(whole))
    rest = data.batches(split, 10, device=CPU, seed=1, epoch=2, start=start)
    assert len(rest) == len(whole) - start
    assert same(whole[start:], rest)


@pytest.mark.parametrize("augment", [False, True])
def test_ranks_together_see_what_one_process_sees(data, augment):
    kwargs = {"device": CPU, "seed": 1, "epoch": 2, "augment": augment}
    one = list(data.batches("train", 15, **kwargs))
    ranks = [list(data.batches("train", 5, rank=r, world_size=3, **kwargs)) for r in range(3)]
    assert [len(rank) for rank in ranks] == [4, 4, 4]
    for number, (images, labels) in enumerate(one):
        together = torch.cat([rank[number][0] for rank in ranks])
        labels_together = torch.cat([rank[number][1] for rank in ranks])
        # 53 = 3 * 15 + 8: the last global batch gives two images to each rank, and drops two.
        assert len(together) == (15 if number < 3 else 6)
        assert torch.equal(together, images[: len(together)])
        assert torch.equal(labels_together, labels[: len(together)])


def test_a_single_image_for_each_rank_is_left_out(data):
    """53 = 4 * 12 + 5, of which each of the three ranks would get one."""
    ranks = [list(data.batches("train", 4, device=CPU, rank=r, world_size=3)) for r in range(3)]
    assert [[len(labels) for _, labels in rank] for rank in ranks] == [[4, 4, 4, 4]] * 3


@pytest.mark.parametrize("world_size", [2, 3, 5])
def test_ranks_test_every_image_once(data, world_size):
    seen = [
        number
        for rank in range(world_size)
        for number in numbers(
            data, data.batches("test", 4, device=CPU, rank=rank, world_size=world_size)
        )
    ]
    assert sorted(seen) == list(range(23))


def test_drop_last(data):
    assert [len(y) for _, y in data.batches("train", 10, device=CPU)][-1] == 3
    assert len(data.batches("train", 10, device=CPU, drop_last=True)) == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "validation"}, "no validation images of 'toy' are held out"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"rank": 2, "world_size": 2}, "rank 2"),
        ({"start": 7}, "start is 7, but the epoch has 6 batches"),
        ({"start": -1}, "start is -1"),
        ({"batch_size": 64, "drop_last": True}, "batch_size 64 .* no batch of the 53"),
    ],
)
def test_impossible_arguments(data, arguments, message):
    arguments = {"split": "train", "batch_size": 10, "device": CPU, **arguments}
    with pytest.raises(ConfigurationError, match=message):
        data.batches(**arguments)


def test_digits_end_to_end():
    digits = load("digits")
    images, labels = next(iter(digits.batches("train", 64, device=CPU)))
    assert images.shape == (64, *(digits.channels, *digits.image_size))
    assert labels.max() < digits.num_classes
