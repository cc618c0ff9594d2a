"""Data sets of one array at another size."""

import numpy as np
import pytest
import torch
from PIL import Image

from timestepper.data import load
from timestepper.data.parts import PART
from timestepper.data.resize import require_memory, resize
from timestepper.errors import DataError


@pytest.fixture(scope="module")
def images():
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (600, 3, 28, 28), generator=random).byte()


@pytest.mark.parametrize("side", [14, 20, 28, 40])
def test_as_pillow_resizes_files(images, side):
    resized = resize(images, side)
    assert (resized.shape, resized.dtype) == ((600, 3, side, side), torch.uint8)
    for number in (0, 511, 512, 599):
        picture = Image.fromarray(images[number].permute(1, 2, 0).numpy())
        wanted = np.array(picture.resize((side, side), Image.Resampling.BILINEAR))
        # Pillow rounds rows before it goes on to columns.
        difference = resized[number].permute(1, 2, 0).numpy().astype(int) - wanted
        assert abs(difference).max() <= 1


def test_half_the_size_is_a_tent_over_four_pixels(images):
    resized = resize(images, 14).double()
    wide = images.double()
    tent = torch.tensor([1, 3, 3, 1], dtype=torch.float64) / 8
    window = wide[:, :, 1:5, 3:7]  # of the pixel in row 1, column 2
    exact = torch.einsum("ncij,i,j->nc", window, tent, tent)
    assert (resized[:, :, 1, 2] - exact).abs().max() <= 0.5


def test_black_stays_black_and_white_white():
    ends = torch.tensor([0, 255]).byte()[:, None, None, None].expand(2, 1, 28, 28)
    for side in (5, 14, 37):
        assert torch.equal(resize(ends, side), ends[:, :, :1, :1].expand(2, 1, side, side))


@pytest.mark.parametrize(("side", "padding"), [(4, 0), (8, 1), (16, 2)])
def test_a_data_set_at_another_size(side, padding):
    whole, data = load("digits"), load("digits", image_size=side)
    assert data.image_size == (side, side)
    assert data.fingerprint()["shape"] == [1, side, side]
    assert torch.equal(data.train.images, resize(whole.train.images, side))
    assert torch.equal(data.test.images, resize(whole.test.images, side))
    assert torch.equal(data.train.labels, whole.train.labels)
    np.testing.assert_allclose(data.mean[0], data.train.images.double().mean() / 255, rtol=1e-12)
    assert data.train.augmentation.padding == padding
    if side == 8:
        assert data.fingerprint() == whole.fingerprint()


def test_more_than_the_memory_is_refused():
    images = torch.zeros(2, 1, 4, 4, dtype=torch.uint8)
    with pytest.raises(DataError, match=r"3 images .* take 30,000,000 GB, more than this machine"):
        require_memory((images, images[:1]), 10**8)


def test_both_splits_count(monkeypatch):
    """Digits of 100x100 pixels take 18 MB, of which 14 are training images."""
    pages = {"SC_PHYS_PAGES": 16_000_000, "SC_PAGE_SIZE": 1}
    monkeypatch.setattr("os.sysconf", pages.get)
    with pytest.raises(DataError, match=r"1797 images of 100x100 pixels take"):
        load("digits", image_size=100)


@pytest.mark.parametrize(("side", "larger"), [(100, 100), (300, 300), (20, 100)])
def test_wider_copies_are_small(side, larger, monkeypatch):
    """Of few large images, too: a hundred of a thousand pixels squared were gigabytes."""
    copied = []
    wide = torch.Tensor.double
    monkeypatch.setattr(torch.Tensor, "double", lambda part: copied.append(len(part)) or wide(part))
    resize(torch.zeros(200, 3, 100, 100, dtype=torch.uint8), side)
    assert max(copied) == PART // (3 * larger**2)
    assert sum(copied) == 200


@pytest.mark.parametrize("off", [-1e-9, 0, 1e-9])
def test_the_last_digits_do_not_count(off, monkeypatch):
    """Which processors compute differently: halves are halves on all, and go to even numbers."""
    values = torch.tensor([0.5, 1.5, 254.5, 7.51], dtype=torch.float64).view(1, 1, 2, 2) + off
    monkeypatch.setattr("timestepper.data.resize.interpolate", lambda *_, **__: values)
    resized = resize(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2)
    assert resized.flatten().tolist() == [0, 2, 254, 8]
