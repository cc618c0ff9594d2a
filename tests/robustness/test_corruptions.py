"""Common corruptions: the package's own, the same for every network."""

import numpy as np
import pytest
import torch
from torch import nn

from timestepper import data
from timestepper.data.dataset import DataSet
from timestepper.errors import ConfigurationError
from timestepper.robustness import CommonCorruptions
from timestepper.robustness.corruptions import COMMON, EXTRA, corrupt
from timestepper.robustness.images import read_test_images, some_test_images, with_test_images
from timestepper.training.evaluation import evaluate

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("imagecorruptions", exc_type=ImportError)


def smooth_images(channels=3, count=3, size=32):
    """Images with large and small features, as a data set."""
    across = torch.linspace(0, 1, size)
    phase = torch.arange(count * channels).view(count, channels, 1, 1)
    waves = torch.sin(9 * across[:, None] + phase) * torch.cos(23 * across + 2 * phase)
    pixels = (127 + 110 * waves).to(torch.uint8)
    empty = DataSet(
        "waves",
        ("a", "b"),
        channels,
        (size, size),
        (0.5,) * channels,
        (0.25,) * channels,
        None,
        None,
    )
    return with_test_images(empty, pixels, torch.arange(count) % 2)


def corrupted(images, *arguments, seed=0):
    return read_test_images(corrupt(images, *arguments, seed, CPU), CPU)[0]


def test_names_are_the_packages(package):
    assert list(COMMON) == package.get_corruption_names("common")
    assert list(EXTRA) == package.get_corruption_names("validation")


@pytest.mark.parametrize("corruption", ["contrast", "pixelate", "jpeg_compression", "saturate"])
def test_an_image_is_what_the_package_makes_of_it(corruption, package):
    images = smooth_images()
    before, labels = read_test_images(images, CPU)
    after, same = read_test_images(corrupt(images, corruption, 3, 0, CPU), CPU)
    for one, other in zip(before, after, strict=True):
        array = one.byte().permute(1, 2, 0).numpy()
        expected = package.corrupt(array, severity=3, corruption_name=corruption)
        assert (expected != array).any()
        assert np.array_equal(other.permute(1, 2, 0).numpy(), expected)
    assert torch.equal(same, labels)


RANDOM = set(COMMON + EXTRA) - {
    *("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"),
    *("gaussian_blur", "saturate"),
}


@pytest.mark.parametrize("corruption", sorted(RANDOM))
def test_random_numbers_come_from_seed_and_image_alone(corruption, package):
    # The same image several times: only what is random tells them apart.
    pixels, labels = read_test_images(smooth_images(count=1), CPU)
    images = with_test_images(smooth_images(), pixels.expand(3, -1, -1, -1), labels.expand(3))
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    whole = corrupted(images, corruption, 2)
    assert (np.random.get_state()[1] == state).all()
    np.random.seed(4)
    two = with_test_images(images, pixels.expand(2, -1, -1, -1), labels.expand(2))
    assert torch.equal(corrupted(two, corruption, 2), whole[:2])
    assert not torch.equal(whole[0], whole[1])
    assert not torch.equal(corrupted(images, corruption, 2, seed=1), whole)


def test_grey_images_stay_grey_and_keep_the_strength_of_the_noise(package):
    images = smooth_images(channels=1, count=1)
    before, _ = read_test_images(images, CPU)
    colour = with_test_images(smooth_images(), before.expand(-1, 3, -1, -1), torch.tensor([0]))
    after = corrupted(images, "gaussian_noise", 1)
    assert after.shape == before.shape
    assert torch.equal(after, corrupted(colour, "gaussian_noise", 1)[:, :1])
    inside = (before > 80) & (before < 180)
    # Its deviation at severity 1 is 0.08 of white.
    assert (after - before)[inside].std().item() == pytest.approx(0.08 * 255, rel=0.15)


def test_scores_are_those_of_the_corrupted_images(package, fabric):
    images = smooth_images(count=6)
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(3072, 2))
    heard = []
    threat = CommonCorruptions(("contrast", "shot_noise"), (1, 4), limit=5)
    outcome = threat.evaluate(network, images, fabric, lambda *parts: heard.append(parts))
    assert outcome.cases == ("contrast", "shot_noise")
    assert outcome.levels == (1.0, 4.0)
    assert outcome.accuracy.shape == outcome.loss.shape == (2, 2)
    for row, corruption in enumerate(outcome.cases):
        for column, severity in enumerate((1, 4)):
            pixels = corrupted(some_test_images(images, 5), corruption, severity)
            outputs = network((pixels / 255 - 0.5) / 0.25)
            expected = nn.functional.cross_entropy(
                outputs, read_test_images(some_test_images(images, 5), CPU)[1]
            ).item()
            assert outcome.loss[row, column].item() == pytest.approx(expected, rel=1e-5)
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert outcome.loss[0, 0].item() != evaluate(network, images, fabric, 5).loss


def test_what_it_says():
    assert CommonCorruptions(seed=3, limit=2).describe(smooth_images()) == (
        "The 15 common corruptions of Hendrycks and Dietterich, as the package imagecorruptions "
        "makes them, severity 1, 2, 3, 4, 5, on 2 evenly spaced ones of the 3 test images of "
        "waves at 32x32 pixels, seed 3; the same corrupted images for every network."
    )
    said = CommonCorruptions(("fog", "snow"), (5,)).describe(smooth_images())
    assert said.startswith("Corruptions of Hendrycks and Dietterich (fog, snow), as the package")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"severities": (1, 6)}, "severity is 6; it must be from 1 to 5"),
        ({"severities": (0,)}, "severity is 0; it must be from 1 to 5"),
        ({"severities": ()}, "there are no corruptions or severities"),
        ({"corruptions": ("fogg",)}, r"there is no corruption 'fogg'; did you mean 'fog'"),
        ({"corruptions": ("xyzzy",)}, "there is no corruption 'xyzzy'; there are gaussian_noise, "),
        ({"seed": -1}, "seed is -1"),
        ({"limit": 0}, "limit is 0; it must be at least 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        CommonCorruptions(**settings)


def test_images_that_are_too_small(digits, fabric):
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ConfigurationError, match="images of digits are 8x8, and common corruptio"):
        CommonCorruptions().evaluate(network, digits, fabric)


def test_saturation_of_grey_images():
    grey, colour = smooth_images(channels=1), smooth_images()
    threat = CommonCorruptions(("fog", "saturate"))
    with pytest.raises(ConfigurationError, match=r"^corruption saturate leaves grey images as the"):
        threat.require(grey)
    pytest.importorskip("imagecorruptions", exc_type=ImportError)
    threat.require(colour)
    CommonCorruptions().require(grey)


def test_image_files_are_corrupted_as_they_are_evaluated(package, make_folder):
    """Images that are read from their files, cropped to 96 pixels."""
    folder = make_folder(sizes=((48, 60), (70, 50)))
    images = data.load("imagefolder", data_dir=str(folder), image_size=96, workers=0)
    pixels, labels = read_test_images(images, CPU)
    assert pixels.shape == (6, 3, 96, 96)
    after, same = read_test_images(corrupt(images, "contrast", 1, 0, CPU), CPU)
    expected = package.corrupt(
        pixels[4].byte().permute(1, 2, 0).numpy(), severity=1, corruption_name="contrast"
    )
    assert np.array_equal(after[4].permute(1, 2, 0).numpy(), expected)
    assert torch.equal(same, labels)
