from __future__ import annotations

import pytest
import torch
from torchvision.transforms import functional

from timestepper.data.crop_flip import CropFlip, crop_flip


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 8, 8), (3, 9, 14)])
@pytest.mark.parametrize("padding", [0, 1, 4])
def test_same_as_one_image_at_a_time_in_pil(channels, height, width, padding):
    images = torch.randint(0, 256, (40, channels, height, width), dtype=torch.uint8)
    top, left, mirrored = CropFlip(padding, flip=True).draw(40, seed=3, epoch=1)
    expected = []
    for image, t, c, m in zip(images, top.tolist(), left.tolist(), mirrored.tolist(), strict=True):
        padded = functional.pad(functional.to_pil_image(image), [padding])
        window = functional.crop(padded, t, c, height, width)
        expected.append(functional.pil_to_tensor(functional.hflip(window) if m else window))
    assert torch.equal(crop_flip(images, top, left, mirrored, padding), torch.stack(expected))


def test_draws_are_uniform_and_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    top, left, mirrored = CropFlip(2, flip=True).draw(50_000, seed=0, epoch=0)
    assert torch.equal(state, torch.get_rng_state())
    for offsets in (top, left):
        counts = torch.bincount(offsets)
        assert len(counts) == 5
        assert (counts - 10_000).abs().max() < 500
    assert abs(mirrored.float().mean().item() - 0.5) < 0.02
    joint = torch.bincount(top * 10 + left * 2 + mirrored)
    assert (joint - 1_000).abs().max() < 200


def test_no_flip():
    assert not CropFlip(1, flip=False).draw(1000, 0, 0)[2].any()
