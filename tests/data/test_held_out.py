"""Validation images: which ones they are, and that training never sees them."""

import numpy as np
import pytest
import torch

from timestepper.data import DataSet, load
from timestepper.data.crop_flip import CropFlip
from timestepper.data.dataset import statistics
from timestepper.data.splits import MemorySplit
from timestepper.errors import ConfigurationError

CPU = torch.device("cpu")
HELD = 13


def toy(labels) -> DataSet:
    """Every pixel of image i is 3 i, so that it can be recognised, shifted or not."""
    labels = torch.as_tensor(labels)
    images = (3 * torch.arange(len(labels)))[:, None, None, None].expand(-1, 1, 8, 8).byte()
    train = MemorySplit(images, labels, CropFlip(2, flip=True))
    classes = tuple(map(str, range(int(labels.max()) + 1)))
    return DataSet("toy", classes, 1, (8, 8), *statistics(images), train, train)


@pytest.fixture
def data() -> DataSet:
    return toy([0] * 40 + [1] * 20 + [2] * 5)


def numbers(data, split, **options):
    """Which images a split has; the centre is padding in no shift."""
    found = []
    for images, _ in data.batches(split, 7, device=CPU, **options):
        centre = images[:, 0, 4, 4].double() * data.std[0] + data.mean[0]
        found += (centre * 255 / 3).round().long().tolist()
    return found


def labels(data, split):
    return torch.cat([y for _, y in data.batches(split, 7, device=CPU)])


def test_training_and_validation_images_are_all_of_them_and_none_is_both(data):
    held = data.held_out(HELD)
    validation = numbers(held, "validation")
    assert len(validation) == HELD == len(held.validation)
    assert validation == sorted(validation)
    for seed, epoch in ((0, 0), (1, 0), (0, 3)):
        trained = numbers(held, "train", seed=seed, epoch=epoch)
        assert sorted(trained + validation) == list(range(65))
    assert numbers(held, "test") == list(range(65))


def test_every_class_gives_its_share(data):
    assert torch.bincount(labels(data.held_out(HELD), "validation")).tolist() == [8, 4, 1]
    digits = load("digits")
    share = 200 / 1442 * torch.bincount(digits.train.labels)
    counts = torch.bincount(labels(digits.held_out(200), "validation"))
    assert counts.sum() == 200
    assert (counts - share).abs().max() < 1


def test_labels_are_those_of_the_images(data):
    held = data.held_out(HELD)
    assert torch.equal(data.train.labels[numbers(held, "validation")], labels(held, "validation"))
    assert torch.equal(held.train.labels, data.train.labels[sorted(numbers(held, "train"))])


@pytest.mark.parametrize(
    ("classes", "count"), [([0] * 9 + [1], 3), ([0, 1, 2, 3] * 3, 2), ([0, 1, 2, 3] * 3, 10)]
)
def test_too_few_for_shares_are_held_out_all_the_same(classes, count):
    held = toy(classes).held_out(count)
    validation = numbers(held, "validation")
    assert len(validation) == count
    assert sorted(validation + numbers(held, "train")) == list(range(len(classes)))


def test_they_are_a_function_of_the_data_alone(data):
    first = numbers(data.held_out(HELD), "validation")
    np.random.seed(5)
    torch.manual_seed(5)
    assert numbers(data.held_out(HELD), "validation", seed=1, epoch=2) == first
    # Another version of scikit-learn that chose others would make runs incomparable.
    assert first == [0, 3, 6, 9, 19, 21, 23, 38, 40, 43, 50, 51, 62]


def test_validation_images_are_not_augmented_and_training_images_as_ever(data):
    held = data.held_out(HELD)
    (images, _) = next(iter(held.batches("validation", HELD, device=CPU, epoch=1)))
    assert (images == images[:, :, :1, :1]).all()

    def by_number(data):
        pairs = zip(numbers(data, "train", epoch=1), rows(data), strict=True)
        return dict(pairs)

    def rows(data):
        return [
            image for images, _ in data.batches("train", 7, device=CPU, epoch=1) for image in images
        ]

    every, kept = by_number(data), by_number(held)
    assert all(torch.equal(every[number], image) for number, image in kept.items())
    assert any((image != image[:, :1, :1]).any() for image in kept.values())


def test_images_of_files(make_folder):
    data = load("imagenet", data_dir=make_folder(train=10), image_size=8, workers=0)
    held = data.held_out(6)
    assert labels(held, "validation").tolist() == [0] * 3 + [1] * 3
    every = next(iter(data.batches("train", 20, device=CPU, augment=False)))
    images, _ = next(iter(held.batches("validation", 6, device=CPU)))
    same = (images[:, None] == every[0][None]).flatten(2).all(2)
    assert same.sum(1).tolist() == [1] * 6
    trained = torch.cat([x for x, _ in held.batches("train", 7, device=CPU, augment=False)])
    assert len(trained) == 14
    assert not (images[:, None] == trained[None]).flatten(2).all(2).any()


def test_what_is_known_about_the_images_stays(data):
    held = data.held_out(HELD)
    assert (held.mean, held.std) == (data.mean, data.std)
    assert "validation_images" not in data.fingerprint()
    assert held.fingerprint() == {
        **data.fingerprint(),
        "training_digest": held.train.digest(),
        "training_images": 65 - HELD,
        "validation_images": HELD,
    }
    assert (data.evaluation_split, held.evaluation_split) == ("test", "validation")


@pytest.mark.parametrize("count", [-1, 0, 65, 66])
def test_impossible_counts(data, count):
    message = f"{count} validation images can't be held out of the 65 training images of 'toy'"
    with pytest.raises(ConfigurationError, match=message):
        data.held_out(count)


def test_there_are_none(data):
    with pytest.raises(ConfigurationError, match="no validation images of 'toy' are held out"):
        data.batches("validation", 5, device=CPU)
    with pytest.raises(ConfigurationError, match="must be one of train, validation, test"):
        data.batches("val", 5, device=CPU)
